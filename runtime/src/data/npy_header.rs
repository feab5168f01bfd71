//! The header of an array of numpy: a literal of Python with three keys. Called by [`super::npy`].

/// Most sides of a shape, as numpy has it.
const SIDES_MAX: usize = 64;

/// What the header says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    /// Bytes of one number; at least 1.
    pub(super) width: usize,
    pub(super) is_big_endian: bool,
    /// The first index changes fastest.
    pub(super) is_fortran: bool,
    pub(super) shape: Vec<usize>,
}

/// Kinds of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Signed,
    Unsigned,
    Float,
}

/// Values that stand in headers.
#[derive(Debug, PartialEq, Eq)]
enum Literal<'a> {
    Text(&'a str),
    Truth(bool),
    Numbers(Vec<usize>),
    /// The list of an array of structures.
    Fields,
}

/// Reads a literal from its front on.
struct Reader<'a> {
    rest: &'a str,
}

impl Header {
    /// From the text of the header, such as `{'descr': '<f8', 'fortran_order': False, 'shape': (3, 2), }`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let odd = || format!("its header is not understood: {}", text.trim());
        let (mut descr, mut is_fortran, mut shape) = (None, None, None);
        let mut reader = Reader { rest: text };
        reader.expect("{").ok_or_else(odd)?;
        while reader.expect("}").is_none() {
            let key = reader.text().ok_or_else(odd)?;
            reader.expect(":").ok_or_else(odd)?;
            match (key, reader.literal().ok_or_else(odd)?) {
                ("descr", Literal::Text(text)) => descr = Some(text),
                ("descr", Literal::Fields) => {
                    return Err("it holds structures with fields: save each field as an array".to_owned());
                }
                ("fortran_order", Literal::Truth(truth)) => is_fortran = Some(truth),
                ("shape", Literal::Numbers(numbers)) => shape = Some(numbers),
                _ => return Err(odd()),
            }
            if reader.expect(",").is_none() && !reader.rest.trim_start().starts_with('}') {
                return Err(odd());
            }
        }
        let (kind, width, is_big_endian) = number(descr.ok_or_else(odd)?)?;
        let shape = shape.ok_or_else(odd)?;
        if shape.len() > SIDES_MAX {
            return Err(format!(
                "its shape has {} sides; at most {SIDES_MAX} can be read",
                shape.len()
            ));
        }
        Ok(Self {
            kind,
            width,
            is_big_endian,
            is_fortran: is_fortran.ok_or_else(odd)?,
            shape,
        })
    }

    /// Bytes of all numbers.
    pub(super) fn bytes(&self) -> Result<usize, String> {
        // A side of 0 hides how large the others are; candle multiplies them.
        let all = self
            .shape
            .iter()
            .try_fold(self.width, |all, &side| all.checked_mul(side.max(1)));
        let all = all.filter(|&all| isize::try_from(all).is_ok());
        let all = all.ok_or_else(|| format!("its shape {:?} is too large", self.shape))?;
        Ok(if self.shape.contains(&0) { 0 } else { all })
    }
}

/// Kind, width in bytes, and whether the highest byte comes first.
fn number(descr: &str) -> Result<(Kind, usize, bool), String> {
    let (is_big_endian, plain) = match descr.strip_prefix('>') {
        Some(plain) => (true, plain),
        None => (false, descr.trim_start_matches(['<', '=', '|'])),
    };
    let mut letters = plain.chars();
    let kind = match letters.next() {
        Some('b') => Kind::Bool,
        Some('i') => Kind::Signed,
        Some('u') => Kind::Unsigned,
        Some('f') => Kind::Float,
        Some('O') => return Err("it holds Python objects, which would be run to be read".to_owned()),
        Some('U' | 'S' | 'a') => return Err("it holds texts, not numbers".to_owned()),
        Some('c') => return Err("it holds complex numbers: save real and imaginary parts".to_owned()),
        Some('M' | 'm') => return Err("it holds times: save them as numbers".to_owned()),
        _ => return Err(format!("it holds values of type {descr:?}, not numbers")),
    };
    let width = letters
        .as_str()
        .parse()
        .ok()
        .filter(|width| (1..=16).contains(width));
    let width = width.ok_or_else(|| format!("it holds values of type {descr:?}, not numbers"))?;
    Ok((kind, width, is_big_endian))
}

impl<'a> Reader<'a> {
    fn expect(&mut self, sign: &str) -> Option<()> {
        self.rest = self.rest.trim_start().strip_prefix(sign)?;
        Some(())
    }

    fn text(&mut self) -> Option<&'a str> {
        let rest = self.rest.trim_start();
        let quote = rest.chars().next().filter(|sign| ['\'', '"'].contains(sign))?;
        let (text, rest) = rest[1..].split_once(quote)?;
        self.rest = rest;
        Some(text)
    }

    fn literal(&mut self) -> Option<Literal<'a>> {
        let rest = self.rest.trim_start();
        if let Some(rest) = rest.strip_prefix("True") {
            self.rest = rest;
            return Some(Literal::Truth(true));
        }
        if let Some(rest) = rest.strip_prefix("False") {
            self.rest = rest;
            return Some(Literal::Truth(false));
        }
        if let Some(rest) = rest.strip_prefix('(') {
            let (inside, rest) = rest.split_once(')')?;
            self.rest = rest;
            let sides = inside.split(',').map(str::trim).filter(|side| !side.is_empty());
            // Python 2 wrote long numbers with an L.
            let sides = sides.map(|side| side.trim_end_matches('L').parse().ok());
            return sides.collect::<Option<_>>().map(Literal::Numbers);
        }
        if rest.starts_with('[') {
            return Some(Literal::Fields);
        }
        self.text().map(Literal::Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_in_any_order_and_shapes_in_all_ways_that_python_has() {
        let parsed = Header::parse("{\"shape\":(3,2),'fortran_order':True,'descr':'>u2'}  \n").unwrap();
        let expected = Header {
            kind: Kind::Unsigned,
            width: 2,
            is_big_endian: true,
            is_fortran: true,
            shape: vec![3, 2],
        };
        assert_eq!(parsed, expected);
        for (shape, expected) in [("()", vec![]), ("(5,)", vec![5]), ("(5L, 0L)", vec![5, 0])] {
            let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
            assert_eq!(Header::parse(&text).unwrap().shape, expected, "{shape}");
        }
    }

    #[test]
    fn a_shape_has_64_sides_at_most() {
        let of = |sides: usize| {
            let shape = "1, ".repeat(sides);
            Header::parse(&format!(
                "{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}"
            ))
        };
        assert_eq!(of(64).unwrap().shape.len(), 64);
        assert!(of(65).unwrap_err().contains("65 sides"));
    }

    #[test]
    fn odd_headers_are_refused() {
        for text in [
            "",
            "{",
            "{}",
            "{'descr': '<f4'}",
            "{'descr': '<f4', 'fortran_order': 1, 'shape': (1,)}",
            "{'descr': '<f4' 'fortran_order': False, 'shape': (1,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'more': True}",
            "{'descr': 'f', 'fortran_order': False, 'shape': (1,)}",
            "{'descr': '', 'fortran_order': False, 'shape': (1,)}",
        ] {
            assert!(Header::parse(text).is_err(), "{text}");
        }
    }
}
