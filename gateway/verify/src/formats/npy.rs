//! NumPy arrays (`.npy`) by `numpy/lib/format.py`: versions 1 to 3, without Python objects.
//!
//! The header is a Python literal. It is parsed by a grammar of its own that knows dicts, tuples, lists, texts, numbers
//! and truths, and nothing that could be evaluated.

use crate::reader::{Parsed, Reader, fault, fault_with, shown};

/// NumPy itself refuses longer headers unless told to trust the file.
const HEADER_MAX: u64 = 10_000;
const DEPTH_MAX: usize = 16;
pub(crate) const MAGIC: &[u8] = b"\x93NUMPY";

/// A Python literal.
#[derive(Debug, PartialEq, Eq)]
enum Literal {
    Text(String),
    Number(u64),
    Truth(bool),
    List(Vec<Literal>),
    Dict(Vec<(String, Literal)>),
}

/// What a header says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Npy {
    /// It holds pickled Python objects.
    pub(crate) has_objects: bool,
    /// Bytes of the array after the header.
    pub(crate) bytes: u64,
}

/// Reads a header; the reader stands at the array's bytes afterwards.
pub(crate) fn header(reader: &mut Reader<'_>) -> Parsed<Npy> {
    reader.skip(MAGIC.len() as u64)?;
    let (major, minor) = (reader.u8()?, reader.u8()?);
    let length = match (major, minor) {
        (1, 0) => u64::from(reader.u16()?),
        (2 | 3, 0) => u64::from(reader.u32()?),
        _ => return fault(format!("has NumPy format version {major}.{minor}")),
    };
    let bytes = reader.bytes(length, HEADER_MAX)?;
    described(&bytes)
}

/// The same of bytes that are in memory and may be cut off after the header; none when they are too few.
pub(crate) fn header_of(bytes: &[u8]) -> Option<(usize, Parsed<Npy>)> {
    let (prefix, length) = match bytes.get(6..8)? {
        [1, 0] => (
            10,
            usize::from(u16::from_le_bytes(bytes.get(8..10)?.try_into().ok()?)),
        ),
        [2 | 3, 0] => (
            12,
            usize::try_from(u32::from_le_bytes(bytes.get(8..12)?.try_into().ok()?)).ok()?,
        ),
        _ => return None,
    };
    let end = prefix + length.min(usize::try_from(HEADER_MAX).ok()? + 1);
    Some((end, described(bytes.get(prefix..end)?)))
}

fn described(bytes: &[u8]) -> Parsed<Npy> {
    let text = String::from_utf8_lossy(bytes);
    let mut parser = Parser {
        rest: text.trim_end_matches([' ', '\n']),
    };
    let Some(Literal::Dict(mut fields)) = parser.literal(0).filter(|_| parser.rest.trim().is_empty()) else {
        return fault("has a header that is no Python dictionary");
    };
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
    if names != ["descr", "fortran_order", "shape"] {
        return fault("has a header without exactly `descr`, `fortran_order` and `shape`");
    }
    let mut values = fields.into_iter().map(|(_, value)| value);
    let (Some(kind), Some(Literal::Truth(_)), Some(Literal::List(shape))) =
        (values.next(), values.next(), values.next())
    else {
        return fault("has a header with values of other types than NumPy writes");
    };
    let Some((item, has_objects)) = item(&kind, 0) else {
        return fault(format!(
            "has elements of an unknown type: {}",
            shown(&format!("{kind:?}"))
        ));
    };
    let count = shape.iter().try_fold(1u64, |all, size| match size {
        Literal::Number(size) => all.checked_mul(*size),
        _ => None,
    });
    match count.and_then(|count| count.checked_mul(item)) {
        Some(bytes) => Ok(Npy { has_objects, bytes }),
        None => fault_with(
            "has a shape that gives no size",
            "write it again with `numpy.save`",
        ),
    }
}

/// Bytes of one element, and whether there are objects in it.
fn item(kind: &Literal, depth: usize) -> Option<(u64, bool)> {
    match kind {
        Literal::Text(code) => plain(code),
        Literal::List(fields) if depth < DEPTH_MAX => {
            // `[(name, type)]` or `[(name, type, shape)]`; a name may be `(title, name)`.
            fields.iter().try_fold((0u64, false), |(bytes, objects), field| {
                let Literal::List(field) = field else { return None };
                let (kind, shape) = match field.as_slice() {
                    [_, kind] => (kind, None),
                    [_, kind, shape] => (kind, Some(shape)),
                    _ => return None,
                };
                let (one, has) = item(kind, depth + 1)?;
                let count = shape.map_or(Some(1), times)?;
                Some((bytes.checked_add(one.checked_mul(count)?)?, objects | has))
            })
        }
        _ => None,
    }
}

fn times(shape: &Literal) -> Option<u64> {
    match shape {
        Literal::Number(size) => Some(*size),
        Literal::List(sizes) => sizes.iter().try_fold(1u64, |all, size| match size {
            Literal::Number(size) => all.checked_mul(*size),
            _ => None,
        }),
        _ => None,
    }
}

/// `<f4`, `|b1`, `<U12`, `<M8[ns]`, `|O`.
fn plain(code: &str) -> Option<(u64, bool)> {
    let code = code.trim_start_matches(['<', '>', '|', '=']);
    let mut letters = code.chars();
    let letter = letters.next()?;
    let rest = letters.as_str();
    let digits = rest.split('[').next()?;
    if letter == 'O' {
        return Some((8, true));
    }
    let size: u64 = if letter == '?' && digits.is_empty() {
        1
    } else {
        digits.parse().ok()?
    };
    let unit_is_whole = rest.len() == digits.len() || (matches!(letter, 'M' | 'm') && rest.ends_with(']'));
    match letter {
        'b' | 'i' | 'u' | 'f' | 'c' | 'S' | 'a' | 'V' | 'M' | 'm' | '?' if unit_is_whole => {
            Some((size, false))
        }
        'U' if unit_is_whole => Some((size.checked_mul(4)?, false)),
        _ => None,
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn literal(&mut self, depth: usize) -> Option<Literal> {
        if depth > DEPTH_MAX {
            return None;
        }
        self.rest = self.rest.trim_start();
        let first = self.rest.chars().next()?;
        match first {
            '\'' | '"' => self.text(first).map(Literal::Text),
            '(' => self.list(')', depth),
            '[' => self.list(']', depth),
            '{' => self.dict(depth),
            '0'..='9' => self.number(),
            _ if self.eat("True") => Some(Literal::Truth(true)),
            _ if self.eat("False") => Some(Literal::Truth(false)),
            _ => None,
        }
    }

    fn eat(&mut self, word: &str) -> bool {
        self.rest = self.rest.trim_start();
        let rest = self.rest.strip_prefix(word);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// Escapes are refused: NumPy writes none that matter, and they could hide an `O`.
    fn text(&mut self, quote: char) -> Option<String> {
        let (text, rest) = self.rest.get(1..)?.split_once(quote)?;
        self.rest = rest;
        (!text.contains('\\')).then(|| text.to_owned())
    }

    fn number(&mut self) -> Option<Literal> {
        let end = self
            .rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at(end);
        // Python 2 wrote `3L`.
        self.rest = rest.strip_prefix('L').unwrap_or(rest);
        digits.parse().ok().map(Literal::Number)
    }

    fn list(&mut self, close: char, depth: usize) -> Option<Literal> {
        self.rest = self.rest.get(1..)?;
        let close = close.to_string();
        let mut values = Vec::new();
        while !self.eat(&close) {
            values.push(self.literal(depth + 1)?);
            if !self.eat(",") {
                return self.eat(&close).then_some(Literal::List(values));
            }
        }
        Some(Literal::List(values))
    }

    fn dict(&mut self, depth: usize) -> Option<Literal> {
        self.rest = self.rest.get(1..)?;
        let mut fields = Vec::new();
        while !self.eat("}") {
            let Literal::Text(key) = self.literal(depth + 1)? else {
                return None;
            };
            if !self.eat(":") {
                return None;
            }
            fields.push((key, self.literal(depth + 1)?));
            if !self.eat(",") {
                return self.eat("}").then_some(Literal::Dict(fields));
            }
        }
        Some(Literal::Dict(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(header: &str) -> Option<Npy> {
        described(header.as_bytes()).ok()
    }

    #[test]
    fn knows_objects_wherever_they_hide() {
        let header =
            |descr: &str| format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (2, 3), }}   \n");
        assert_eq!(
            of(&header("'<f4'")),
            Some(Npy {
                has_objects: false,
                bytes: 24
            })
        );
        assert_eq!(
            of(&header("'<M8[ns]'")),
            Some(Npy {
                has_objects: false,
                bytes: 48
            })
        );
        assert!(of(&header("'|O'")).unwrap().has_objects);
        let nested = "[('a', '<i2', (4,)), ('b', [('c', '|O')])]";
        assert_eq!(
            of(&header(nested)),
            Some(Npy {
                has_objects: true,
                bytes: 96
            })
        );
        assert_eq!(of(&header("'\\x7cO'")), None);
        assert_eq!(of(&header("__import__('os')")), None);
    }

    #[test]
    fn refuses_shapes_without_a_size() {
        let shape = "{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296, 4294967296), }";
        assert_eq!(of(shape), None);
        assert_eq!(of(&format!("{}1{}", "(".repeat(500), ")".repeat(500))), None);
    }
}
