//! Runs a pickle on a machine that can make containers and describe tensors, and cannot do anything else.
use std::collections::BTreeMap;

use lighterage_shape::DType;

use super::{PICKLE_BYTES_MAX, opcodes};
use crate::error::Fault;

/// The most arguments of a call; torch's own have seven.
const ARGUMENTS_MAX: usize = 8;
/// The most dimensions that are looked at; more than any layout has.
const DIMENSIONS_MAX: usize = 16;
/// The most bytes of a storage's key; torch counts them.
const KEY_BYTES_MAX: usize = 64;

/// A value of the heap.
pub(super) type Id = usize;

/// What a pickle can make here. Containers refer to values by number, since they may be shared and filled later.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// A number or a flag that no tensor needs, or `None`.
    Nothing,
    Integer(i64),
    Text(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dictionary(Vec<(Id, Id)>),
    Import(Import),
    Storage(Storage),
    Tensor(Described),
}

/// What may be imported, all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Import {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    /// Calls another of these and gives the result a class.
    RebuildFromType,
    /// A class of tensors: only ever named, never called.
    Class,
    Size,
    StorageClass(DType),
}

/// The bytes of one or several tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Storage {
    pub(super) dtype: DType,
    /// Its record is `NAME/data/KEY`.
    pub(super) key: String,
    pub(super) elements: u64,
}

/// A tensor, as the pickle describes it; nothing is checked against the file yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) storage: Storage,
    /// In elements.
    pub(super) offset: u64,
    pub(super) shape: Vec<u64>,
    pub(super) strides: Vec<u64>,
}

/// Everything that a pickle made, and its result.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) heap: Vec<Value>,
    pub(super) root: Id,
}

/// Runs the pickle to its end.
pub(super) fn run(pickle: &[u8]) -> Result<Made, Fault> {
    if pickle.len() > PICKLE_BYTES_MAX {
        return Err(Fault::Pickle {
            byte: PICKLE_BYTES_MAX,
            message: format!("it has {} bytes, at most {PICKLE_BYTES_MAX} are read", pickle.len()),
        });
    }
    let mut machine = Machine {
        pickle,
        at: 0,
        heap: vec![Value::Nothing],
        stack: Vec::new(),
        marks: Vec::new(),
        memo: BTreeMap::new(),
    };
    while !machine.step()? {}
    let root = machine.pop()?;
    Ok(Made { heap: machine.heap, root })
}

/// The value that stands for `None` and all flags.
const NOTHING: Id = 0;

struct Machine<'a> {
    pickle: &'a [u8],
    at: usize,
    heap: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: BTreeMap<usize, Id>,
}

impl Machine<'_> {
    /// One opcode; true at the end.
    fn step(&mut self) -> Result<bool, Fault> {
        use opcodes as op;
        match self.byte()? {
            op::STOP => return Ok(true),
            op::PROTO => self.skip(1)?,
            op::FRAME => self.skip(8)?,
            op::MARK => self.marks.push(self.stack.len()),
            op::POP => drop(self.pop()?),
            op::POP_MARK => drop(self.since_mark()?),
            op::DUP => {
                let top = self.top()?;
                self.stack.push(top);
            }
            op::NONE | op::NEWTRUE | op::NEWFALSE => self.stack.push(NOTHING),
            op::BINFLOAT => {
                self.skip(8)?;
                self.stack.push(NOTHING);
            }
            op::BININT1 => self.integer::<1>()?,
            op::BININT2 => self.integer::<2>()?,
            op::BININT => {
                let value = i32::from_le_bytes(self.array()?);
                self.push(Value::Integer(value.into()));
            }
            op::LONG1 => self.long()?,
            op::SHORT_BINUNICODE => {
                let length = usize::from(self.byte()?);
                self.text(length)?;
            }
            op::BINUNICODE => {
                let length = self.length()?;
                self.text(length)?;
            }
            op::EMPTY_TUPLE => self.push(Value::Tuple(Vec::new())),
            op::EMPTY_LIST => self.push(Value::List(Vec::new())),
            op::EMPTY_DICT => self.push(Value::Dictionary(Vec::new())),
            code @ (op::TUPLE1 | op::TUPLE2 | op::TUPLE3) => {
                self.tuple(usize::from(code - op::TUPLE1) + 1)?;
            }
            op::TUPLE => {
                let items = self.since_mark()?;
                self.push(Value::Tuple(items));
            }
            op::APPEND => {
                let item = self.pop()?;
                self.append(&[item])?;
            }
            op::APPENDS => {
                let items = self.since_mark()?;
                self.append(&items)?;
            }
            op::SETITEM => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(&[key, value])?;
            }
            op::SETITEMS => {
                let items = self.since_mark()?;
                self.set(&items)?;
            }
            op::BINGET => {
                let slot = usize::from(self.byte()?);
                self.recall(slot)?;
            }
            op::LONG_BINGET => {
                let slot = self.length()?;
                self.recall(slot)?;
            }
            op::BINPUT => {
                let slot = usize::from(self.byte()?);
                self.remember(slot)?;
            }
            op::LONG_BINPUT => {
                let slot = self.length()?;
                self.remember(slot)?;
            }
            op::MEMOIZE => self.remember(self.memo.len())?,
            op::GLOBAL => self.global()?,
            op::STACK_GLOBAL => self.stack_global()?,
            op::BINPERSID => self.persistent()?,
            op::REDUCE => self.reduce()?,
            // State of an OrderedDict or of a tensor: attributes, which hold no weights.
            op::BUILD => drop(self.pop()?),
            code => return self.fault(format!("opcode {code:#04x} is none that torch writes for tensors")),
        }
        Ok(false)
    }

    fn global(&mut self) -> Result<(), Fault> {
        let (module, name) = (self.line()?, self.line()?);
        self.import(&module, &name)
    }

    fn stack_global(&mut self) -> Result<(), Fault> {
        let (name, module) = (self.pop()?, self.pop()?);
        match (&self.heap[module], &self.heap[name]) {
            (Value::Text(module), Value::Text(name)) => {
                let (module, name) = (module.clone(), name.clone());
                self.import(&module, &name)
            }
            _ => self.fault("an import whose name is no text".to_owned()),
        }
    }

    fn import(&mut self, module: &str, name: &str) -> Result<(), Fault> {
        let Some(import) = allowed(module, name) else {
            return Err(Fault::Forbidden { module: shortened(module), name: shortened(name) });
        };
        self.push(Value::Import(import));
        Ok(())
    }

    /// `("storage", class, key, device, elements)`.
    fn persistent(&mut self) -> Result<(), Fault> {
        let id = self.pop()?;
        let storage = match self.tuple_of(id)[..] {
            [
                Value::Text(kind),
                Value::Import(Import::StorageClass(dtype)),
                Value::Text(key),
                Value::Text(_),
                Value::Integer(elements),
            ] if kind == "storage" && key.len() <= KEY_BYTES_MAX => u64::try_from(*elements)
                .ok()
                .map(|elements| Storage { dtype: *dtype, key: key.clone(), elements }),
            _ => None,
        };
        match storage {
            Some(storage) => self.push(Value::Storage(storage)),
            None => return self.fault("a persistent id that is no storage".to_owned()),
        }
        Ok(())
    }

    fn reduce(&mut self) -> Result<(), Fault> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let made = self.call(function, arguments)?;
        self.stack.push(made);
        Ok(())
    }

    /// Calls one of the imports: each only describes.
    fn call(&mut self, function: Id, arguments: Id) -> Result<Id, Fault> {
        let Value::Import(import) = self.heap[function] else {
            return self.fault("a call of something that is no function".to_owned());
        };
        let ids = match &self.heap[arguments] {
            Value::Tuple(ids) if ids.len() <= ARGUMENTS_MAX => ids.clone(),
            Value::Tuple(ids) => return self.fault(format!("a call with {} arguments", ids.len())),
            _ => return self.fault("a call whose arguments are no tuple".to_owned()),
        };
        match (import, &ids[..]) {
            (Import::OrderedDict, []) => Ok(self.add(Value::Dictionary(Vec::new()))),
            (Import::RebuildTensor, [storage, offset, shape, strides, ..]) => {
                let tensor = self.describe([*storage, *offset, *shape, *strides])?;
                Ok(self.add(Value::Tensor(tensor)))
            }
            (Import::RebuildParameter, [tensor, ..]) | (Import::Size, [tensor]) => Ok(*tensor),
            (Import::RebuildFromType, [function, _, arguments, ..]) => self.call_once(*function, *arguments),
            _ => self.fault(format!("{import:?} with {} arguments", ids.len())),
        }
    }

    /// A class is put around what another function makes; that function is none of the same kind, so this ends.
    fn call_once(&mut self, function: Id, arguments: Id) -> Result<Id, Fault> {
        if self.heap[function] == Value::Import(Import::RebuildFromType) {
            return self.fault("classes within classes".to_owned());
        }
        self.call(function, arguments)
    }

    fn describe(&self, [storage, offset, shape, strides]: [Id; 4]) -> Result<Described, Fault> {
        let described = match (&self.heap[storage], &self.heap[offset]) {
            (Value::Storage(storage), Value::Integer(offset)) => {
                u64::try_from(*offset).ok().zip(self.extents(shape)).zip(self.extents(strides)).map(
                    |((offset, shape), strides)| Described {
                        storage: storage.clone(),
                        offset,
                        shape,
                        strides,
                    },
                )
            }
            _ => None,
        };
        match described {
            Some(tensor) if tensor.shape.len() == tensor.strides.len() => Ok(tensor),
            _ => self.fault("a tensor without storage, offset, shape and strides".to_owned()),
        }
    }

    fn extents(&self, tuple: Id) -> Option<Vec<u64>> {
        let Value::Tuple(items) = &self.heap[tuple] else { return None };
        if items.len() > DIMENSIONS_MAX {
            return None;
        }
        let extent = |item: &Id| match self.heap[*item] {
            Value::Integer(value) => u64::try_from(value).ok(),
            _ => None,
        };
        items.iter().map(extent).collect()
    }

    /// The values of a tuple; of anything else none.
    fn tuple_of(&self, id: Id) -> Vec<&Value> {
        match &self.heap[id] {
            Value::Tuple(items) => items.iter().map(|item| &self.heap[*item]).collect(),
            _ => Vec::new(),
        }
    }

    fn append(&mut self, items: &[Id]) -> Result<(), Fault> {
        let list = self.top()?;
        match &mut self.heap[list] {
            Value::List(list) => list.extend_from_slice(items),
            _ => return self.fault("an item for something that is no list".to_owned()),
        }
        Ok(())
    }

    fn set(&mut self, items: &[Id]) -> Result<(), Fault> {
        let dictionary = self.top()?;
        match &mut self.heap[dictionary] {
            Value::Dictionary(pairs) if items.len().is_multiple_of(2) => {
                pairs.extend(items.as_chunks::<2>().0.iter().map(|[key, value]| (*key, *value)));
            }
            _ => return self.fault("an entry for something that is no dictionary".to_owned()),
        }
        Ok(())
    }

    fn tuple(&mut self, count: usize) -> Result<(), Fault> {
        let Some(start) = self.stack.len().checked_sub(count) else {
            return self.fault("an empty stack".to_owned());
        };
        let items = self.stack.split_off(start);
        self.push(Value::Tuple(items));
        Ok(())
    }

    fn recall(&mut self, slot: usize) -> Result<(), Fault> {
        match self.memo.get(&slot) {
            Some(id) => self.stack.push(*id),
            None => return self.fault(format!("memo {slot} is empty")),
        }
        Ok(())
    }

    fn remember(&mut self, slot: usize) -> Result<(), Fault> {
        let top = self.top()?;
        self.memo.insert(slot, top);
        Ok(())
    }

    fn add(&mut self, value: Value) -> Id {
        self.heap.push(value);
        self.heap.len() - 1
    }

    fn push(&mut self, value: Value) {
        let id = self.add(value);
        self.stack.push(id);
    }

    fn top(&self) -> Result<Id, Fault> {
        match self.stack.last() {
            Some(id) => Ok(*id),
            None => self.fault("an empty stack".to_owned()),
        }
    }

    fn pop(&mut self) -> Result<Id, Fault> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn since_mark(&mut self) -> Result<Vec<Id>, Fault> {
        match self.marks.pop() {
            Some(height) if height <= self.stack.len() => Ok(self.stack.split_off(height)),
            _ => self.fault("no mark".to_owned()),
        }
    }

    fn integer<const N: usize>(&mut self) -> Result<(), Fault> {
        let value = self.array::<N>()?.iter().rev().fold(0, |value, byte| value << 8 | i64::from(*byte));
        self.push(Value::Integer(value));
        Ok(())
    }

    /// Little-endian, as many bytes as the first one says, with sign.
    fn long(&mut self) -> Result<(), Fault> {
        let length = usize::from(self.byte()?);
        let bytes = self.take(length)?;
        if length > 8 {
            return self.fault(format!("an integer of {length} bytes"));
        }
        let sign = if bytes.last().is_some_and(|byte| *byte >= 0x80) { -1 } else { 0 };
        let value = bytes.iter().rev().fold(sign, |value: i64, byte| value << 8 | i64::from(*byte));
        self.push(Value::Integer(value));
        Ok(())
    }

    fn text(&mut self, length: usize) -> Result<(), Fault> {
        let bytes = self.take(length)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => self.push(Value::Text(text.to_owned())),
            Err(_) => return self.fault("a text that is not UTF-8".to_owned()),
        }
        Ok(())
    }

    /// Up to a line feed, which is left out.
    fn line(&mut self) -> Result<String, Fault> {
        let rest = &self.pickle[self.at..];
        let Some(length) = rest.iter().position(|byte| *byte == b'\n') else {
            return self.fault("truncated".to_owned());
        };
        self.at += length + 1;
        Ok(String::from_utf8_lossy(&rest[..length]).into_owned())
    }

    fn length(&mut self) -> Result<usize, Fault> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }

    fn byte(&mut self) -> Result<u8, Fault> {
        self.array().map(|[byte]| byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let bytes = self.take(N)?;
        Ok(std::array::from_fn(|index| bytes[index]))
    }

    fn skip(&mut self, count: usize) -> Result<(), Fault> {
        self.take(count).map(|_| ())
    }

    fn fault<T>(&self, message: String) -> Result<T, Fault> {
        Err(Fault::Pickle { byte: self.at, message })
    }
}

impl<'a> Machine<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        let found = self.at.checked_add(count).and_then(|end| self.pickle.get(self.at..end));
        let Some(found) = found else { return self.fault("truncated".to_owned()) };
        self.at += count;
        Ok(found)
    }
}

/// The whitelist.
fn allowed(module: &str, name: &str) -> Option<Import> {
    Some(match (module, name) {
        ("collections", "OrderedDict") => Import::OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2") => Import::RebuildTensor,
        ("torch._utils", "_rebuild_parameter") => Import::RebuildParameter,
        ("torch._tensor", "_rebuild_from_type_v2") => Import::RebuildFromType,
        ("torch", "Tensor") | ("torch.nn.parameter", "Parameter") => Import::Class,
        ("torch", "Size") => Import::Size,
        ("torch", class) => Import::StorageClass(storage(class)?),
        _ => return None,
    })
}

fn storage(class: &str) -> Option<DType> {
    Some(match class {
        "FloatStorage" => DType::F32,
        "DoubleStorage" => DType::F64,
        "HalfStorage" => DType::F16,
        "BFloat16Storage" => DType::Bf16,
        "LongStorage" => DType::I64,
        "IntStorage" => DType::I32,
        "ShortStorage" => DType::I16,
        "CharStorage" => DType::I8,
        "ByteStorage" => DType::U8,
        "BoolStorage" => DType::Bool,
        _ => return None,
    })
}

/// Names of strangers, for messages.
fn shortened(name: &str) -> String {
    name.chars().take(64).collect()
}
