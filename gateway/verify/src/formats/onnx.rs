//! ONNX models: a walk over the protobuf for operators of unknown domains and for data in other files.
//!
//! Messages and field numbers are from `onnx.proto` (IR version 11). A custom operator is native code that the reader
//! must load; external data is a path that the loader opens.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::formats::protobuf::{FIELDS_MAX, Value, field, text, varint};
use crate::reader::{Parsed, Reader, fault, shown};

/// Graphs within graphs.
const DEPTH_MAX: usize = 24;
/// Operators of unknown domains, functions and external files kept; more of the former are refused anyway.
const KEPT_MAX: usize = 20_000;
/// Longest path of a file beside a model.
const LOCATION_MAX: usize = 512;
/// Ranges of raw tensor data kept. What is beyond them is scanned as if it were no tensor.
const RAW_MAX: usize = 50_000;
/// Operators that every ONNX runtime brings: the standard's own domains.
const DOMAINS: [&str; 5] = [
    "",
    "ai.onnx",
    "ai.onnx.ml",
    "ai.onnx.training",
    "ai.onnx.preview.training",
];

/// A part of another file that holds a tensor.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct External {
    pub(crate) location: String,
    pub(crate) offset: u64,
    /// What the tensor's type and shape need.
    pub(crate) length: u64,
}

/// Domain and name, whole: two that look alike when they are cut are two.
pub(crate) type Operator = (String, String);

/// What a walk found.
#[derive(Default)]
pub(crate) struct Onnx {
    /// Operators of domains that are not the standard's and that no function of the model defines.
    pub(crate) custom: BTreeSet<Operator>,
    /// Data in other files.
    pub(crate) external: Vec<External>,
    /// Where raw bytes of tensors are.
    pub(crate) raw: Vec<Range<u64>>,
    functions: BTreeSet<Operator>,
    fields: u64,
    has_graph: bool,
}

/// Messages of the format that are looked into.
#[derive(Clone, Copy)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    SparseTensor,
    Training,
    Function,
}

impl Message {
    /// The message in field `number`, if it is one to look into.
    fn child(self, number: u64) -> Option<Self> {
        Some(match (self, number) {
            (Self::Model, 7) | (Self::Training, 1 | 2) | (Self::Attribute, 6 | 11) => Self::Graph,
            (Self::Model, 20) => Self::Training,
            (Self::Model, 25) => Self::Function,
            (Self::Graph, 1) | (Self::Function, 7) => Self::Node,
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::SparseTensor, 1 | 2) => Self::Tensor,
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Self::SparseTensor,
            (Self::Node, 5) | (Self::Function, 11) => Self::Attribute,
            _ => return None,
        })
    }
}

/// Whether a file may be one: its first field is the IR version, a small number.
pub(crate) fn looks_like(head: &[u8]) -> bool {
    matches!(head, [0x08, 1..=32, tag, ..] if matches!(tag, 0x12 | 0x1a | 0x22 | 0x28 | 0x32 | 0x3a | 0x42 | 0x72))
}

/// Walks the whole model.
pub(crate) fn check(reader: &mut Reader<'_>) -> Parsed<Onnx> {
    let mut found = Onnx::default();
    let all = reader.position()..reader.end();
    found.message(Message::Model, &all, reader, 0)?;
    if !found.has_graph {
        return fault("has no graph");
    }
    let functions = std::mem::take(&mut found.functions);
    found.custom.retain(|name| !functions.contains(name));
    found.external.sort();
    found.external.dedup();
    Ok(found)
}

impl Onnx {
    fn message(
        &mut self,
        message: Message,
        range: &Range<u64>,
        reader: &mut Reader<'_>,
        depth: usize,
    ) -> Parsed<()> {
        // Four messages for each graph within a graph.
        if depth > DEPTH_MAX * 4 {
            return fault("has graphs within graphs, too deep");
        }
        let back = reader.position();
        reader.seek(range.start)?;
        let (mut name, mut domain) = (None, None);
        let mut external: Option<Pairs> = None;
        let mut shape = Shape::default();
        while let Some((number, value)) = field(reader, range.end)? {
            self.fields += 1;
            if self.fields > FIELDS_MAX {
                return fault("has more fields than are checked");
            }
            if matches!(message, Message::Tensor) {
                shape.field(number, &value, reader)?;
            }
            let Value::Bytes(part) = value else { continue };
            if let Some(child) = message.child(number) {
                self.has_graph |= matches!((message, child), (Message::Model, Message::Graph));
                self.message(child, &part, reader, depth + 1)?;
            }
            match (message, number) {
                (Message::Node, 4) | (Message::Function, 1) => name = Some(text(reader, &part)?),
                (Message::Node, 7) | (Message::Function, 10) => domain = Some(text(reader, &part)?),
                (Message::Tensor, 9) if self.raw.len() < RAW_MAX && !part.is_empty() => self.raw.push(part),
                (Message::Tensor, 13) => pair(reader, &part, external.get_or_insert_default())?,
                _ => {}
            }
        }
        self.named(message, &domain.unwrap_or_default(), &name.unwrap_or_default())?;
        if let Some(external) = external {
            self.external.push(external.finished(&shape)?);
            if self.external.len() > KEPT_MAX {
                return fault("has more tensors in other files than are checked");
            }
        }
        reader.seek(back)
    }

    fn named(&mut self, message: Message, domain: &str, name: &str) -> Parsed<()> {
        let full = || (domain.to_owned(), name.to_owned());
        match message {
            Message::Node if !DOMAINS.contains(&domain) => {
                self.custom.insert(full());
            }
            Message::Function => {
                self.functions.insert(full());
            }
            _ => {}
        }
        if self.custom.len() + self.functions.len() > KEPT_MAX {
            return fault("has more operators and functions of its own than are checked");
        }
        Ok(())
    }
}

#[derive(Default)]
struct Pairs {
    location: Option<String>,
    offset: Option<String>,
    length: Option<String>,
}

impl Pairs {
    fn finished(self, shape: &Shape) -> Parsed<External> {
        let number = |text: Option<String>| match text {
            None => Ok(None),
            Some(text) => match text.parse::<u64>() {
                Ok(number) => Ok(Some(number)),
                Err(_) => fault(format!(
                    "has a tensor in another file at the malformed place `{}`",
                    shown(&text)
                )),
            },
        };
        let Some(location) = self.location else {
            return fault("has a tensor in another file that it does not name");
        };
        if location.len() > LOCATION_MAX {
            return fault("has a tensor in another file of a name longer than any");
        }
        let Some(length) = shape.bytes() else {
            return fault("has a tensor in another file whose type and shape give no size");
        };
        if number(self.length)?.is_some_and(|stated| stated != length) {
            return fault("has a tensor in another file of another length than its type and shape need");
        }
        Ok(External {
            location,
            offset: number(self.offset)?.unwrap_or(0),
            length,
        })
    }
}

/// Type and dimensions of a tensor.
#[derive(Default)]
struct Shape {
    kind: u64,
    /// Elements; a shape without dimensions has one.
    elements: Option<u64>,
    is_too_large: bool,
}

impl Shape {
    fn field(&mut self, number: u64, value: &Value, reader: &mut Reader<'_>) -> Parsed<()> {
        match (number, value) {
            (1, Value::Varint(size)) => self.dimension(*size),
            // The same packed, as some writers have it.
            (1, Value::Bytes(range)) => {
                let back = reader.position();
                reader.seek(range.start)?;
                while reader.position() < range.end {
                    let size = varint(reader)?;
                    self.dimension(size);
                }
                reader.seek(back)?;
            }
            (2, Value::Varint(kind)) => self.kind = *kind,
            _ => {}
        }
        Ok(())
    }

    fn dimension(&mut self, size: u64) {
        let product = self.elements.unwrap_or(1).checked_mul(size);
        self.is_too_large |= product.is_none();
        self.elements = product;
    }

    /// By `TensorProto.DataType`; texts have no size.
    fn bytes(&self) -> Option<u64> {
        let bits = match self.kind {
            1 | 6 | 12 => 32,
            2 | 3 | 9 | 17..=20 | 24 => 8,
            4 | 5 | 10 | 16 => 16,
            7 | 11 | 13 | 14 => 64,
            15 => 128,
            21..=23 => 4,
            25 | 26 => 2,
            _ => return None,
        };
        let elements = self.elements.unwrap_or(1);
        let bits = elements.checked_mul(bits).filter(|_| !self.is_too_large)?;
        Some(bits.div_ceil(8))
    }
}

/// One StringStringEntryProto of a tensor's `external_data`. A key that comes twice is refused: loaders differ.
fn pair(reader: &mut Reader<'_>, range: &Range<u64>, pairs: &mut Pairs) -> Parsed<()> {
    let back = reader.position();
    reader.seek(range.start)?;
    let (mut key, mut value) = (String::new(), String::new());
    while let Some((number, part)) = field(reader, range.end)? {
        match (number, part) {
            (1, Value::Bytes(part)) => key = text(reader, &part)?,
            (2, Value::Bytes(part)) => value = text(reader, &part)?,
            _ => {}
        }
    }
    let place = match key.as_str() {
        "location" => &mut pairs.location,
        "offset" => &mut pairs.offset,
        "length" => &mut pairs.length,
        // `checksum` and what later versions add is not followed by loaders.
        _ => return reader.seek(back),
    };
    if place.replace(value).is_some() {
        return fault(format!("names the `{key}` of a tensor in another file twice"));
    }
    reader.seek(back)
}
