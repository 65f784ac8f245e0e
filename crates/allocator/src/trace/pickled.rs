//! A pickle of plain values, read without running anything: numbers, texts, lists, tuples and dictionaries.

use std::collections::BTreeMap;

use crate::opcode as op;

/// A value by number, in the order in which they were made.
pub(crate) type ValueId = u32;

/// What a pickle holds. Values know each other by number, so one that contains itself does no harm, and nothing here recurses.
#[derive(Debug)]
pub(crate) struct Pickled<'a> {
    values: Vec<Value<'a>>,
    root: ValueId,
}

/// One value.
#[derive(Debug)]
pub(crate) enum Value<'a> {
    /// Nothing, or a number that is not whole.
    Other,
    Int(i64),
    Text(&'a [u8]),
    List(Vec<ValueId>),
    /// Keys and values in turns.
    Dict(Vec<ValueId>),
    /// A dictionary of more than [`PAIRS_MAX`] pairs, as far as anyone asks for them.
    Index(BTreeMap<&'a [u8], ValueId>),
}

/// Longer dictionaries are not looked through for each question: a few bytes can name one any number of times.
const PAIRS_MAX: usize = 32;
/// Nobody asks for a longer key.
const KEY_BYTES_MAX: usize = 64;

impl<'a> Pickled<'a> {
    /// Reads a pickle; where it went wrong and why, if it did.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, (usize, String)> {
        let mut reader = Reader {
            bytes,
            at: 0,
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: Vec::new(),
        };
        loop {
            let at = reader.at;
            match reader.step() {
                Ok(None) => (),
                Ok(Some(root)) => return Ok(Self { values: indexed(reader.values), root }),
                Err(reason) => return Err((at, reason)),
            }
        }
    }

    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    pub(crate) fn root(&self) -> &Value<'a> {
        self.value(self.root)
    }

    /// The value under a key of a dictionary: the last one, as in Python.
    pub(crate) fn get(&self, value: &Value<'_>, key: &str) -> Option<&Value<'a>> {
        let key = key.as_bytes();
        debug_assert!(key.len() <= KEY_BYTES_MAX);
        let found = match value {
            Value::Index(index) => index.get(key).copied(),
            Value::Dict(pairs) => {
                let mut pairs = pairs.chunks_exact(2).rev();
                let found =
                    pairs.find(|pair| matches!(self.value(pair[0]), Value::Text(text) if *text == key));
                found.map(|pair| pair[1])
            }
            _ => None,
        };
        found.map(|id| self.value(id))
    }

    /// The items of a list.
    pub(crate) fn items(&self, value: &Value<'_>) -> Option<Vec<&Value<'a>>> {
        let Value::List(items) = value else { return None };
        Some(items.iter().map(|item| self.value(*item)).collect())
    }

    fn value(&self, id: ValueId) -> &Value<'a> {
        &self.values[id as usize]
    }
}

/// Gives each long dictionary an index. No dictionary grows any more.
fn indexed(mut values: Vec<Value<'_>>) -> Vec<Value<'_>> {
    for id in 0..values.len() {
        if let Value::Dict(pairs) = &values[id]
            && pairs.len() > 2 * PAIRS_MAX
        {
            let named = pairs.chunks_exact(2).filter_map(|pair| match &values[pair[0] as usize] {
                Value::Text(key) if key.len() <= KEY_BYTES_MAX => Some((*key, pair[1])),
                _ => None,
            });
            // Of several values under a key the last one stays.
            values[id] = Value::Index(named.collect());
        }
    }
    values
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value<'a>>,
    stack: Vec<ValueId>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: Vec<Option<ValueId>>,
}

type Step = Result<Option<ValueId>, String>;

impl<'a> Reader<'a> {
    /// Does one opcode; the root after the last one.
    fn step(&mut self) -> Step {
        let [opcode] = self.take_array()?;
        match opcode {
            op::PROTO => self.skip(1),
            op::FRAME => self.skip(8),
            op::STOP => return self.pop().map(Some),
            op::MARK => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            op::POP => self.pop().map(drop),
            op::EMPTY_DICT => self.push(Value::Dict(Vec::new())),
            op::EMPTY_LIST | op::EMPTY_TUPLE => self.push(Value::List(Vec::new())),
            op::DICT => self.pop_mark().and_then(|items| self.push_pairs(items)),
            op::LIST | op::TUPLE => self.pop_mark().and_then(|items| self.push(Value::List(items))),
            op::TUPLE1 => self.tuple(1),
            op::TUPLE2 => self.tuple(2),
            op::TUPLE3 => self.tuple(3),
            op::SETITEM => {
                let pair = self.pop_many(2)?;
                self.extend(pair, true)
            }
            op::SETITEMS => self.pop_mark().and_then(|items| self.extend(items, true)),
            op::APPEND => self.pop_many(1).and_then(|item| self.extend(item, false)),
            op::APPENDS => self.pop_mark().and_then(|items| self.extend(items, false)),
            op::NONE => self.push(Value::Other),
            op::NEWTRUE | op::NEWFALSE => self.push(Value::Int(i64::from(opcode == op::NEWTRUE))),
            op::BINFLOAT => self.skip(8).and_then(|()| self.push(Value::Other)),
            op::BININT1 | op::BININT2 | op::BININT | op::LONG1 => self.number(opcode),
            op::BINUNICODE | op::SHORT_BINUNICODE => self.text(opcode),
            op::BINPUT | op::LONG_BINPUT | op::MEMOIZE => self.memorise(opcode),
            op::BINGET | op::LONG_BINGET => self.remember(opcode),
            opcode => Err(format!("opcode {opcode:#04x} makes no plain value")),
        }
        .map(|()| None)
    }

    fn number(&mut self, opcode: u8) -> Result<(), String> {
        let value = match opcode {
            op::BININT1 => i64::from(u8::from_le_bytes(self.take_array()?)),
            op::BININT2 => i64::from(u16::from_le_bytes(self.take_array()?)),
            op::BININT => i64::from(i32::from_le_bytes(self.take_array()?)),
            _ => {
                let [length] = self.take_array()?;
                long(self.take(length.into())?)?
            }
        };
        self.push(Value::Int(value))
    }

    fn text(&mut self, opcode: u8) -> Result<(), String> {
        let length = if opcode == op::BINUNICODE {
            u32::from_le_bytes(self.take_array()?)
        } else {
            u8::from_le_bytes(self.take_array()?).into()
        };
        let text = self.take(length as usize)?;
        self.push(Value::Text(text))
    }

    fn memorise(&mut self, opcode: u8) -> Result<(), String> {
        let number =
            if opcode == op::MEMOIZE { self.memo.len() } else { self.number_of(opcode == op::LONG_BINPUT)? };
        let top = *self.stack.last().ok_or("there is nothing to memorise")?;
        // Whoever writes counts up.
        if number > self.bytes.len() {
            return Err(format!("memo {number} is higher than a pickle of this length has"));
        }
        if self.memo.len() <= number {
            self.memo.resize(number + 1, None);
        }
        self.memo[number] = Some(top);
        Ok(())
    }

    fn remember(&mut self, opcode: u8) -> Result<(), String> {
        let number = self.number_of(opcode == op::LONG_BINGET)?;
        let known = self.memo.get(number).copied().flatten();
        self.stack.push(known.ok_or_else(|| format!("memo {number} was never made"))?);
        Ok(())
    }

    fn number_of(&mut self, is_long: bool) -> Result<usize, String> {
        Ok(if is_long {
            u32::from_le_bytes(self.take_array()?) as usize
        } else {
            u8::from_le_bytes(self.take_array()?).into()
        })
    }

    fn tuple(&mut self, count: usize) -> Result<(), String> {
        let items = self.pop_many(count)?;
        self.push(Value::List(items))
    }

    fn push_pairs(&mut self, items: Vec<ValueId>) -> Result<(), String> {
        self.push(Value::Dict(Vec::new()))?;
        self.extend(items, true)
    }

    /// Adds to the list or dictionary on top.
    fn extend(&mut self, items: Vec<ValueId>, is_dict: bool) -> Result<(), String> {
        let top = *self.stack.last().ok_or("there is nothing to add to")?;
        match (&mut self.values[top as usize], is_dict) {
            (Value::Dict(pairs), true) if items.len().is_multiple_of(2) => pairs.extend(items),
            (Value::List(list), false) => list.extend(items),
            _ => return Err("a value is added to what takes none".to_owned()),
        }
        Ok(())
    }

    fn push(&mut self, value: Value<'a>) -> Result<(), String> {
        let id =
            ValueId::try_from(self.values.len()).map_err(|_| "more than four billion values".to_owned())?;
        self.values.push(value);
        self.stack.push(id);
        Ok(())
    }

    fn pop(&mut self) -> Result<ValueId, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let top = (self.stack.len() > floor).then(|| self.stack.pop()).flatten();
        top.ok_or_else(|| "a value is missing".to_owned())
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<ValueId>, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len().checked_sub(count).filter(|place| *place >= floor) {
            Some(place) => Ok(self.stack.split_off(place)),
            None => Err("values are missing".to_owned()),
        }
    }

    fn pop_mark(&mut self) -> Result<Vec<ValueId>, String> {
        let mark = self.marks.pop().ok_or("a mark is missing")?;
        Ok(self.stack.split_off(mark))
    }

    fn skip(&mut self, count: usize) -> Result<(), String> {
        self.take(count).map(drop)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| format!("ends in the middle of {count} bytes"))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn take_array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }
}

/// Two's complement, little-endian, of any length up to 8.
fn long(bytes: &[u8]) -> Result<i64, String> {
    let Some(last) = bytes.last() else { return Ok(0) };
    if bytes.len() > 8 {
        return Err(format!("a number of {} bytes", bytes.len()));
    }
    let mut whole = if *last >= 0x80 { [0xff; 8] } else { [0; 8] };
    whole[..bytes.len()].copy_from_slice(bytes);
    Ok(i64::from_le_bytes(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `pickle.dumps({"a": [1, -300, 1 << 40, 1.5, None, True, ("x", "x")]}, protocol)`, by Python 3.11.
    const PYTHON: [&[u8]; 2] = [
        b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xd4\xfe\xff\xff\x8a\x06\x00\x00\x00\x00\x00\x01G?\xf8\x00\x00\x00\x00\x00\x00N\x88X\x01\x00\x00\x00xq\x03h\x03\x86q\x04es.",
        b"\x80\x04\x95.\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x01a\x94]\x94(K\x01J\xd4\xfe\xff\xff\x8a\x06\x00\x00\x00\x00\x00\x01G?\xf8\x00\x00\x00\x00\x00\x00N\x88\x8c\x01x\x94h\x03\x86\x94es.",
    ];

    #[test]
    fn what_python_writes_is_read() {
        for bytes in PYTHON {
            let pickled = Pickled::parse(bytes).unwrap();
            let list = pickled.get(pickled.root(), "a").and_then(|list| pickled.items(list)).unwrap();
            let ints: Vec<_> = list
                .iter()
                .filter_map(|value| if let Value::Int(value) = value { Some(*value) } else { None })
                .collect();
            assert_eq!(ints, [1, -300, 1 << 40, 1]);
            let texts = pickled.items(list[6]).unwrap();
            assert!(texts.iter().all(|text| matches!(text, Value::Text(b"x"))) && texts.len() == 2);
            assert!(pickled.get(pickled.root(), "b").is_none());
        }
    }

    /// One dictionary of many pairs, named very often: nobody looks through all of it each time.
    #[test]
    fn a_long_dictionary_is_asked_quickly() {
        let (pairs, names) = (50_000, 50_000);
        let mut bytes = b"](}q\x00(".to_vec();
        for number in 0..pairs {
            bytes.extend(b"X\x05\x00\x00\x00");
            bytes.extend(format!("{number:05}").bytes());
            bytes.extend(b"K\x01");
        }
        bytes.extend(b"X\x05\x00\x00\x0000007K\x02u");
        (0..names).for_each(|_| bytes.extend(b"h\x00"));
        bytes.extend(b"e.");
        let pickled = Pickled::parse(&bytes).unwrap();
        let items = pickled.items(pickled.root()).unwrap();
        assert_eq!(items.len(), names + 1);
        for item in items {
            assert!(pickled.get(item, "addr").is_none());
            assert!(matches!(pickled.get(item, "00007"), Some(Value::Int(2))), "the last one");
            assert!(matches!(pickled.get(item, "00008"), Some(Value::Int(1))));
        }
    }

    #[test]
    fn what_is_no_plain_value_is_refused_with_its_place() {
        for (bytes, at, said) in [
            (&b""[..], 0, "ends in the middle"),
            (b"\x80\x02cos\nsystem\n.", 2, "opcode 0x63 makes no plain value"),
            (b"\x80\x02X\xff\xff\xff\x7fa", 2, "ends in the middle of 2147483647 bytes"),
            (b"\x80\x02\x8a\x09aaaaaaaaa.", 2, "a number of 9 bytes"),
            (b"]h\x05.", 1, "memo 5 was never made"),
            (b"]r\xff\xff\xff\xff.", 1, "is higher than a pickle of this length has"),
            (b"].", 99, ""),
            (b"(].", 99, ""),
            (b"](.", 2, "a value is missing"),
            (b"e", 0, "a mark is missing"),
            (b"(e", 1, "there is nothing to add to"),
            (b"K\x01K\x02a", 4, "a value is added to what takes none"),
            (b"}(K\x01u", 4, "a value is added to what takes none"),
            (b"](\x85", 2, "values are missing"),
        ] {
            match Pickled::parse(bytes) {
                Ok(_) => assert_eq!(at, 99, "{bytes:?}"),
                Err((position, reason)) => {
                    assert!(position == at && reason.contains(said), "{bytes:?}: {position} {reason}");
                }
            }
        }
        // A list that contains itself: nobody goes down without end.
        let pickled = Pickled::parse(b"]q\x00h\x00a.").unwrap();
        assert_eq!(pickled.items(pickled.root()).map(|items| items.len()), Some(1));
    }
}
