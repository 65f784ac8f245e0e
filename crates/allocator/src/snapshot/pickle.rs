use std::collections::BTreeMap;

use super::sink::Sink;
use crate::opcode as op;

/// Writes a pickle of protocol 2, with those opcodes alone that PyTorch's viewer knows.
///
/// The viewer passes what one opcode adds to a list or a dictionary as arguments of one call, so it is added in parts; and texts that come again are
/// memorised, or files would reach gigabytes.
#[derive(Debug)]
pub(super) struct Pickle {
    bytes: Vec<u8>,
    /// Items in each open list or dictionary.
    open: Vec<u32>,
    /// Numbers of memorised texts.
    texts: BTreeMap<String, u32>,
    /// Numbers of memorised shared values, by theirs.
    shared: BTreeMap<u16, u32>,
    memorised: u32,
}

/// The most items that one opcode adds.
const BATCH_MAX: u32 = 1000;

impl Default for Pickle {
    fn default() -> Self {
        let bytes = vec![op::PROTO, 2];
        Self { bytes, open: Vec::new(), texts: BTreeMap::new(), shared: BTreeMap::new(), memorised: 0 }
    }
}

impl Pickle {
    pub(super) fn into_bytes(mut self) -> Vec<u8> {
        self.bytes.push(op::STOP);
        self.bytes
    }

    fn open(&mut self, opcode: u8) {
        self.bytes.push(opcode);
        self.open.push(0);
    }

    /// Counts an item; where a batch is full it is added, and the next one begun.
    fn next(&mut self, add: u8) {
        if let Some(count) = self.open.last_mut() {
            if *count == BATCH_MAX {
                self.bytes.push(add);
                *count = 0;
            }
            if *count == 0 {
                self.bytes.push(op::MARK);
            }
            *count += 1;
        }
    }

    fn close(&mut self, add: u8) {
        if self.open.pop().is_some_and(|count| count > 0) {
            self.bytes.push(add);
        }
    }

    /// Gives what was written last a number.
    fn memorise(&mut self) -> u32 {
        let number = self.memorised;
        self.memorised += 1;
        self.numbered((op::BINPUT, op::LONG_BINPUT), number);
        number
    }

    fn numbered(&mut self, (short, long): (u8, u8), number: u32) {
        if let Ok(number) = u8::try_from(number) {
            self.bytes.extend([short, number]);
        } else {
            self.bytes.push(long);
            self.bytes.extend(number.to_le_bytes());
        }
    }
}

impl Sink for Pickle {
    fn open_dict(&mut self) {
        self.open(op::EMPTY_DICT);
    }

    fn close_dict(&mut self) {
        self.close(op::SETITEMS);
    }

    fn open_list(&mut self) {
        self.open(op::EMPTY_LIST);
    }

    fn close_list(&mut self) {
        self.close(op::APPENDS);
    }

    fn key(&mut self, name: &str) {
        self.next(op::SETITEMS);
        self.text(name);
    }

    fn item(&mut self) {
        self.next(op::APPENDS);
    }

    fn int(&mut self, value: i64) {
        if let Ok(value) = u8::try_from(value) {
            self.bytes.extend([op::BININT1, value]);
        } else if let Ok(value) = u16::try_from(value) {
            self.bytes.push(op::BININT2);
            self.bytes.extend(value.to_le_bytes());
        } else if let Ok(value) = i32::try_from(value) {
            self.bytes.push(op::BININT);
            self.bytes.extend(value.to_le_bytes());
        } else {
            // As few bytes as hold the value and its sign.
            let magnitude = if value < 0 { !value } else { value };
            let length = 8 - magnitude.leading_zeros().saturating_sub(1) / 8;
            self.bytes.extend([op::LONG1, length as u8]);
            self.bytes.extend(&value.to_le_bytes()[..length as usize]);
        }
    }

    fn float(&mut self, value: f64) {
        self.bytes.push(op::BINFLOAT);
        self.bytes.extend(value.to_be_bytes());
    }

    fn bool(&mut self, value: bool) {
        self.bytes.push(if value { op::NEWTRUE } else { op::NEWFALSE });
    }

    fn text(&mut self, value: &str) {
        if let Some(number) = self.texts.get(value) {
            let number = *number;
            return self.numbered((op::BINGET, op::LONG_BINGET), number);
        }
        self.bytes.push(op::BINUNICODE);
        self.bytes.extend(u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
        self.bytes.extend(value.as_bytes());
        let number = self.memorise();
        self.texts.insert(value.to_owned(), number);
    }

    fn pair(&mut self, pair: [i64; 2]) {
        pair.into_iter().for_each(|value| self.int(value));
        self.bytes.push(op::TUPLE2);
    }

    fn shared(&mut self, number: u16, write: impl FnOnce(&mut Self)) {
        if let Some(memorised) = self.shared.get(&number) {
            let memorised = *memorised;
            return self.numbered((op::BINGET, op::LONG_BINGET), memorised);
        }
        write(self);
        let memorised = self.memorise();
        self.shared.insert(number, memorised);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Python's `pickletools.dis` shows for the same values.
    #[test]
    fn numbers_take_as_few_bytes_as_python_gives_them() {
        for (value, expected) in [
            (0, &b"K\x00"[..]),
            (255, b"K\xff"),
            (256, b"M\x00\x01"),
            (65535, b"M\xff\xff"),
            (65536, b"J\x00\x00\x01\x00"),
            (-1, b"J\xff\xff\xff\xff"),
            (i64::from(i32::MAX), b"J\xff\xff\xff\x7f"),
            (1 << 31, b"\x8a\x05\x00\x00\x00\x80\x00"),
            (1 << 32, b"\x8a\x05\x00\x00\x00\x00\x01"),
            ((1 << 39) - 1, b"\x8a\x05\xff\xff\xff\xff\x7f"),
            (1 << 39, b"\x8a\x06\x00\x00\x00\x00\x80\x00"),
            (i64::MAX, b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f"),
            (i64::from(i32::MIN) - 1, b"\x8a\x05\xff\xff\xff\x7f\xff"),
        ] {
            let mut pickle = Pickle::default();
            pickle.int(value);
            assert_eq!(&pickle.bytes[2..], expected, "{value}");
        }
    }

    #[test]
    fn lists_are_added_to_in_parts() {
        let mut pickle = Pickle::default();
        pickle.open_list();
        for _ in 0..2001 {
            pickle.item();
            pickle.bool(true);
        }
        pickle.close_list();
        let bytes = pickle.into_bytes();
        let count = |opcode| bytes.iter().filter(|byte| **byte == opcode).count();
        assert_eq!((count(op::MARK), count(op::APPENDS), count(op::NEWTRUE)), (3, 3, 2001));
        assert!(bytes.ends_with(&[op::MARK, op::NEWTRUE, op::APPENDS, op::STOP]));
    }
}
