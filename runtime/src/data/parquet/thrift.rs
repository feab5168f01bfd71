//! Thrift's compact protocol, as far as footers and page headers of Parquet need it. Called by [`super::footer`].

/// Structures within structures; Parquet's own have six.
const DEPTH_MAX: usize = 16;

/// Fields of a structure with their numbers, in their order: there are few, and a map takes room for more.
#[derive(Debug, Clone, Default)]
pub(super) struct Fields(Vec<(i16, Value)>);

/// What a field holds.
#[derive(Debug, Clone)]
enum Value {
    Truth(bool),
    Number(i64),
    Bytes(Vec<u8>),
    List(Vec<Value>),
    Fields(Fields),
    /// A kind that Parquet's headers have nothing of.
    Other,
}

impl Fields {
    /// Reads a structure of `most` values at most, which take many times the memory of their bytes; answers also how many
    /// bytes it took.
    ///
    /// # Errors
    /// Why it is none.
    pub(super) fn read(bytes: &[u8], most: usize) -> Result<(Self, usize), &'static str> {
        let mut reader = Reader {
            bytes,
            at: 0,
            left: most,
            is_spent: false,
        };
        match reader.fields(0) {
            Some(fields) => Ok((fields, reader.at)),
            None if reader.is_spent => Err("a header has too many values"),
            None => Err("a header ends too early or is not understood"),
        }
    }

    /// The last one of this number.
    fn get(&self, field: i16) -> Option<&Value> {
        let mut backwards = self.0.iter().rev();
        backwards
            .find(|(number, _)| *number == field)
            .map(|(_, value)| value)
    }

    pub(super) fn truth(&self, field: i16) -> Option<bool> {
        match self.get(field) {
            Some(Value::Truth(truth)) => Some(*truth),
            _ => None,
        }
    }

    pub(super) fn number(&self, field: i16) -> Option<i64> {
        match self.get(field) {
            Some(Value::Number(number)) => Some(*number),
            _ => None,
        }
    }

    /// A number that counts something.
    pub(super) fn count(&self, field: i16) -> Option<usize> {
        self.number(field).and_then(|number| usize::try_from(number).ok())
    }

    pub(super) fn text(&self, field: i16) -> Option<String> {
        match self.get(field) {
            Some(Value::Bytes(bytes)) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        }
    }

    pub(super) fn texts(&self, field: i16) -> Vec<String> {
        let text = |value: &Value| match value {
            Value::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        };
        self.list(field).iter().filter_map(text).collect()
    }

    pub(super) fn fields(&self, field: i16) -> Option<&Fields> {
        match self.get(field) {
            Some(Value::Fields(fields)) => Some(fields),
            _ => None,
        }
    }

    pub(super) fn structures(&self, field: i16) -> Vec<&Fields> {
        let mut found = Vec::new();
        for value in self.list(field) {
            if let Value::Fields(fields) = value {
                found.push(fields);
            }
        }
        found
    }

    fn list(&self, field: i16) -> &[Value] {
        match self.get(field) {
            Some(Value::List(values)) => values,
            _ => &[],
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Values that may still come.
    left: usize,
    /// More came than may.
    is_spent: bool,
}

impl Reader<'_> {
    /// Counts a value; none when there are too many.
    fn spend(&mut self) -> Option<()> {
        let left = self.left.checked_sub(1);
        self.is_spent = left.is_none();
        self.left = left?;
        Some(())
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn zigzag(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    fn fields(&mut self, depth: usize) -> Option<Fields> {
        let (mut fields, mut last) = (Vec::new(), 0_i16);
        loop {
            let head = self.byte()?;
            if head == 0 {
                fields.shrink_to_fit();
                return Some(Fields(fields));
            }
            last = match head >> 4 {
                0 => i16::try_from(self.zigzag()?).ok()?,
                more => last.checked_add(i16::from(more))?,
            };
            fields.push((last, self.value(head & 15, depth)?));
        }
    }

    fn value(&mut self, kind: u8, depth: usize) -> Option<Value> {
        if depth > DEPTH_MAX {
            return None;
        }
        self.spend()?;
        Some(match kind {
            1 => Value::Truth(true),
            2 => Value::Truth(false),
            3 => Value::Number(i64::from(self.byte()?.cast_signed())),
            4..=6 => Value::Number(self.zigzag()?),
            7 => {
                self.at = self.at.checked_add(8).filter(|&at| at <= self.bytes.len())?;
                Value::Other
            }
            8 => {
                let length = usize::try_from(self.varint()?).ok()?;
                let end = self.at.checked_add(length)?;
                let bytes = self.bytes.get(self.at..end)?.to_vec();
                self.at = end;
                Value::Bytes(bytes)
            }
            9 | 10 => self.elements(depth)?,
            12 => Value::Fields(self.fields(depth + 1)?),
            _ => return None,
        })
    }

    fn elements(&mut self, depth: usize) -> Option<Value> {
        let head = self.byte()?;
        let count = match head >> 4 {
            15 => usize::try_from(self.varint()?).ok()?,
            few => usize::from(few),
        };
        let mut values = Vec::new();
        for _ in 0..count {
            // In lists a truth takes a byte of its own; an element takes at least one, which bounds their number.
            let value = match head & 15 {
                1 | 2 => {
                    self.spend()?;
                    Value::Truth(self.byte()? == 1)
                }
                kind => self.value(kind, depth + 1)?,
            };
            values.push(value);
        }
        Some(Value::List(values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_values_than_may_be_are_refused() {
        // Field 1: a list of 2,000 structures that are empty.
        let mut bytes = vec![0x19, 0xfc, 0xd0, 0x0f];
        bytes.extend([0; 2001]);
        let (fields, size) = Fields::read(&bytes, 4000).unwrap();
        assert_eq!((fields.structures(1).len(), size), (2000, bytes.len()));
        let error = Fields::read(&bytes, 1000).unwrap_err();
        assert!(error.contains("too many values"), "{error}");
        let error = Fields::read(&bytes[..1000], 4000).unwrap_err();
        assert!(error.contains("too early"), "{error}");
    }
}
