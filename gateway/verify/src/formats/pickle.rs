//! Recognises Python pickles of every protocol by walking their opcodes; nothing is ever unpickled.
//!
//! Opcodes and their arguments are from CPython's `pickletools` (protocols 0 to 5). Protocols 0 and 1 have no magic:
//! they are plain text, so a walk is the only way to know them. It goes on wherever some unpickler would: a walk that
//! stopped earlier than CPython's would take what comes after for text. What only some unpickler takes makes it
//! unsure, which matters for harmless streams alone.

use crate::reader::{Parsed, Reader};

/// Opcodes walked before a stream counts as a pickle without being read to its end.
pub(crate) const OPCODES_MAX: usize = 200_000;
/// Bytes of a line that are looked at; the line itself goes on to its end.
const LINE_SHOWN: usize = 4096;

/// What a walk found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Walk {
    /// Opcodes that were well formed, one after the other.
    pub(crate) opcodes: usize,
    /// It imports something by name, which is how a pickle runs code.
    pub(crate) imports: bool,
    /// The names of what it imports were seen, which chance seldom makes.
    pub(crate) named: bool,
    /// It calls what it imported.
    pub(crate) calls: bool,
    /// It does so by an opcode that does nothing but call, not by one that sets a state.
    pub(crate) reduces: bool,
    /// It came to its STOP.
    pub(crate) stopped: bool,
    /// So many opcodes were well formed that the rest was not looked at.
    pub(crate) exhausted: bool,
    /// Begins with the opcode of protocols 2 to 5.
    pub(crate) has_protocol: bool,
    /// Every argument was one that all unpicklers take.
    pub(crate) sure: bool,
}

impl Walk {
    /// Whether an unpickler that starts here would have imported or called something, or read a whole object.
    pub(crate) fn is_pickle(&self, reached_end: bool) -> bool {
        let harms = self.imports && (self.calls || self.stopped || self.has_protocol);
        let whole = self.sure && self.stopped && reached_end && self.opcodes >= 2;
        harms || whole || (self.has_protocol && self.opcodes >= 3) || self.exhausted
    }

    /// The same for a place in the middle of a file, where chance alone makes short walks.
    pub(crate) fn is_embedded_pickle(&self) -> bool {
        self.exhausted || (self.imports && (self.calls || self.stopped))
    }

    /// The same for bytes of tensors, which hold every short sequence by chance.
    pub(crate) fn is_named_pickle(&self) -> bool {
        self.exhausted || (self.named && self.reduces)
    }
}

/// What is on the unpickler's stack, as far as it matters.
struct Stack {
    depth: u64,
    marks: Vec<u64>,
    /// The two newest values are texts that may be names.
    names: u8,
}

/// Walks from the reader's place until something is no opcode, STOP, or `limit` opcodes were well formed.
pub(crate) fn walk(reader: &mut Reader<'_>, limit: usize) -> Parsed<Walk> {
    let mut walk = Walk {
        opcodes: 0,
        imports: false,
        named: false,
        calls: false,
        reduces: false,
        stopped: false,
        exhausted: false,
        has_protocol: false,
        sure: true,
    };
    let mut stack = Stack {
        depth: 0,
        marks: Vec::new(),
        names: 0,
    };
    while reader.left() > 0 {
        if walk.opcodes >= limit {
            walk.exhausted = true;
            break;
        }
        let opcode = reader.u8()?;
        let first = walk.opcodes == 0;
        if opcode == 0x80 && first {
            walk.has_protocol = reader.peek(1)?.first().is_some_and(|protocol| *protocol <= 5);
        }
        if !step(opcode, reader, &mut stack, &mut walk)? {
            break;
        }
        walk.opcodes += 1;
        if opcode == b'.' {
            walk.stopped = true;
            break;
        }
    }
    Ok(walk)
}

/// One opcode with its argument; false when it is none, or has not what it needs on the stack.
fn step(opcode: u8, reader: &mut Reader<'_>, stack: &mut Stack, walk: &mut Walk) -> Parsed<bool> {
    let Some((takes, gives)) = effect(opcode) else {
        return marked(opcode, reader, stack, walk);
    };
    let floor = stack.marks.last().copied().unwrap_or(0);
    if stack.depth.saturating_sub(floor) < takes {
        // With nothing above it, POP takes the mark.
        return Ok(opcode == b'0' && stack.marks.pop().is_some());
    }
    let is_name = match argument(opcode, reader)? {
        Argument::Malformed => return Ok(false),
        Argument::Unsure => {
            walk.sure = false;
            false
        }
        Argument::Name => true,
        Argument::Fine => false,
    };
    match opcode {
        b'c' => (walk.imports, walk.named) = (true, true),
        // An unpickler takes the names from the stack; those from its memo cannot be seen here.
        0x93 => (walk.imports, walk.named) = (true, walk.named || stack.names >= 2),
        b'R' | 0x81 | 0x92 => (walk.calls, walk.reduces) = (walk.imports, walk.imports),
        b'b' => walk.calls |= walk.imports,
        // The extension registry, and objects that the loader looks up, are imports as well.
        0x82..=0x84 => walk.imports = true,
        _ => {}
    }
    let keeps_names = matches!(opcode, 0x94 | b'p' | b'q' | b'r' | 0x95 | 0x80);
    if is_name {
        stack.names = (stack.names + 1).min(2);
    } else if !keeps_names {
        stack.names = 0;
    }
    stack.depth = (stack.depth - takes).saturating_add(gives);
    Ok(true)
}

/// Opcodes that put a mark or take everything down to one.
fn marked(opcode: u8, reader: &mut Reader<'_>, stack: &mut Stack, walk: &mut Walk) -> Parsed<bool> {
    if opcode == b'(' {
        stack.marks.push(stack.depth);
        return Ok(true);
    }
    // What stays below the mark, and what the opcode gives.
    let (below, gives) = match opcode {
        b'1' => (0, 0),
        b't' | b'l' | b'd' | 0x91 | b'i' | b'o' => (0, 1),
        b'e' | b'u' | 0x90 => (1, 0),
        _ => return Ok(false),
    };
    let Some(mark) = stack.marks.pop() else {
        return Ok(false);
    };
    if mark < below || (opcode == b'o' && stack.depth <= mark) {
        return Ok(false);
    }
    if opcode == b'i' {
        if !(name_line(reader)? && name_line(reader)?) {
            return Ok(false);
        }
        (walk.imports, walk.named) = (true, true);
    }
    if matches!(opcode, b'i' | b'o') && walk.imports {
        (walk.calls, walk.reduces) = (true, true);
    }
    stack.depth = mark + gives;
    stack.names = 0;
    Ok(true)
}

/// How many values an opcode takes from the stack and gives; none for those with marks and for what is no opcode.
fn effect(opcode: u8) -> Option<(u64, u64)> {
    Some(match opcode {
        // Values: numbers, text, bytes, empty containers, the memo, imports.
        b'I' | b'J' | b'K' | b'M' | b'L' | 0x8a | 0x8b | b'S' | b'T' | b'U' | b'B' | b'C' | 0x8e | 0x96 => {
            (0, 1)
        }
        b'N' | 0x88 | 0x89 | b'V' | 0x8c | b'X' | 0x8d | b'F' | b'G' | b']' | b')' | b'}' | 0x8f => (0, 1),
        b'g' | b'h' | b'j' | b'c' | 0x82 | 0x83 | 0x84 | b'P' | 0x97 => (0, 1),
        b'p' | b'q' | b'r' | 0x94 => (1, 1),
        b'2' => (1, 2),
        b'0' => (1, 0),
        0x85 | b'Q' | 0x98 => (1, 1),
        0x86 | 0x93 | b'R' | 0x81 => (2, 1),
        0x87 | 0x92 | b's' => (3, 1),
        b'a' | b'b' => (2, 1),
        0x80 | 0x95 => (0, 0),
        b'.' => (1, 0),
        _ => return None,
    })
}

/// What an opcode's argument is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Argument {
    /// No unpickler takes it.
    Malformed,
    /// Some unpickler takes it, or may.
    Unsure,
    /// A text that may be a dotted name.
    Name,
    /// There is none, or one that says nothing here.
    Fine,
}

impl Argument {
    fn when(is_fine: bool) -> Self {
        if is_fine { Self::Fine } else { Self::Malformed }
    }

    fn text(text: &[u8]) -> Self {
        if is_name(text) { Self::Name } else { Self::Fine }
    }
}

/// Skips an opcode's argument.
fn argument(opcode: u8, reader: &mut Reader<'_>) -> Parsed<Argument> {
    let fixed = match opcode {
        b'J' | b'j' | b'r' | 0x84 => 4,
        b'K' | b'q' | b'h' | 0x82 => 1,
        b'M' | 0x83 => 2,
        b'G' | 0x95 => 8,
        0x80 => return Ok(Argument::when(some_byte(reader)?.is_some_and(|byte| byte <= 5))),
        b'I' | b'L' | b'F' | b'p' | b'g' => {
            let line = line(reader)?;
            return Ok(match () {
                () if line.is_whole && is_number(&line.text) => Argument::Fine,
                () if may_be_number(&line.text, opcode == b'F') => Argument::Unsure,
                () => Argument::Malformed,
            });
        }
        b'S' => {
            let line = line(reader)?;
            let text = line.text.trim_ascii_end();
            return Ok(match () {
                () if !line.is_whole => Argument::Unsure,
                () if is_quoted(text) => Argument::text(text.get(1..text.len() - 1).unwrap_or_default()),
                () => Argument::Malformed,
            });
        }
        b'V' | b'P' => {
            let line = line(reader)?;
            return Ok(match opcode {
                _ if !line.is_whole => Argument::Unsure,
                b'V' => Argument::text(&line.text),
                _ if line.text.is_empty() => Argument::Unsure,
                _ => Argument::Fine,
            });
        }
        b'c' => return Ok(Argument::when(name_line(reader)? && name_line(reader)?)),
        b'U' | b'C' | 0x8c | 0x8a => return counted(opcode, 1, reader),
        b'T' | b'B' | b'X' | 0x8b => return counted(opcode, 4, reader),
        0x8d | 0x8e | 0x96 => return counted(opcode, 8, reader),
        _ => 0,
    };
    Ok(Argument::when(skipped(reader, fixed)?))
}

/// An argument that begins with its length in `width` bytes.
fn counted(opcode: u8, width: usize, reader: &mut Reader<'_>) -> Parsed<Argument> {
    if reader.left() < width as u64 {
        return Ok(Argument::Malformed);
    }
    let mut length = [0; 8];
    length
        .iter_mut()
        .zip(reader.take(width)?)
        .for_each(|(to, from)| *to = *from);
    let length = u64::from_le_bytes(length);
    let is_text = matches!(opcode, b'U' | b'T' | b'X' | 0x8c | 0x8d);
    let may_be_name = is_text && length <= 256;
    let named = may_be_name && reader.left() >= length && {
        let count = usize::try_from(length).unwrap_or(0);
        is_name(reader.peek(count)?)
    };
    let is_there = skipped(reader, length)?;
    Ok(if named {
        Argument::Name
    } else {
        Argument::when(is_there)
    })
}

fn skipped(reader: &mut Reader<'_>, count: u64) -> Parsed<bool> {
    if count > reader.left() {
        return Ok(false);
    }
    reader.skip(count)?;
    Ok(true)
}

fn some_byte(reader: &mut Reader<'_>) -> Parsed<Option<u8>> {
    Ok(if reader.left() == 0 {
        None
    } else {
        Some(reader.u8()?)
    })
}

/// The beginning of a line.
struct Line {
    /// Without its end, as far as it is looked at.
    text: Vec<u8>,
    /// There is no more of it, and it has an end.
    is_whole: bool,
}

/// The rest of a line. One that never ends is one to unpicklers that read lines as files give them.
fn line(reader: &mut Reader<'_>) -> Parsed<Line> {
    let mut text = Vec::new();
    loop {
        let ahead = reader.peek(LINE_SHOWN)?;
        let length = ahead.iter().position(|byte| *byte == b'\n');
        let part = ahead.get(..length.unwrap_or(ahead.len())).unwrap_or_default();
        let room = LINE_SHOWN.saturating_sub(text.len());
        let is_shown = part.len() <= room;
        text.extend_from_slice(part.get(..part.len().min(room)).unwrap_or_default());
        let count = part.len() as u64;
        if length.is_some() {
            reader.skip(count + 1)?;
            // Editors on Windows add it, and some unpicklers strip it.
            if text.last() == Some(&b'\r') {
                text.pop();
            }
            return Ok(Line {
                text,
                is_whole: is_shown,
            });
        }
        reader.skip(count)?;
        if reader.left() == 0 {
            return Ok(Line {
                text,
                is_whole: false,
            });
        }
    }
}

/// A dotted name may be as long as it likes: `path.os.path.os.system`.
fn name_line(reader: &mut Reader<'_>) -> Parsed<bool> {
    Ok(is_name(&line(reader)?.text))
}

fn is_name(text: &[u8]) -> bool {
    let starts = text
        .first()
        .is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_' || *byte >= 0x80);
    starts
        && text
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.') || *byte >= 0x80)
}

/// A number as every unpickler reads it.
fn is_number(text: &[u8]) -> bool {
    let plain =
        |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E' | b'L' | b'_');
    let words: [&[u8]; 3] = [b"inf", b"-inf", b"nan"];
    !text.is_empty() && (text.iter().all(plain) || words.contains(&text))
}

/// What C's and Python's readers of numbers may take: bases by prefix, `infinity` in any case, white space around, and
/// in C whatever follows a zero byte.
fn may_be_number(text: &[u8], is_float: bool) -> bool {
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    text.iter().all(|byte| {
        let word: &[u8] = if is_float { b"infatye." } else { b"abcdefxol" };
        byte.is_ascii_digit()
            || matches!(byte, b'+' | b'-' | b'_' | b' ' | 0x09..=0x0d)
            || word.contains(&byte.to_ascii_lowercase())
    })
}

fn is_quoted(text: &[u8]) -> bool {
    let quote = text.first().copied();
    text.len() >= 2 && matches!(quote, Some(b'\'' | b'"')) && text.last().copied() == quote
}
