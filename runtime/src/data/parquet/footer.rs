//! What the end of a Parquet file says of it: columns and where their parts lie. Called by [`super::Parquet`].

use super::thrift::Fields;

/// Most values of a footer: as many as a thousand columns in a thousand groups have.
const VALUES_MAX: usize = 16_000_000;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Truth,
    Int32,
    Uint32,
    Int64,
    Uint64,
    Float,
    Double,
    Text,
}

/// One column.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) name: String,
    /// Or why it cannot be read.
    pub(super) kind: Result<Kind, &'static str>,
    /// Values can be missing.
    pub(super) is_optional: bool,
}

/// Some rows of all columns.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub(super) rows: usize,
    pub(super) chunks: Vec<Chunk>,
}

/// One column of a group.
#[derive(Debug, Clone)]
pub(super) struct Chunk {
    pub(super) path: Vec<String>,
    pub(super) codec: i64,
    pub(super) start: u64,
    pub(super) size: usize,
}

#[derive(Debug, Clone)]
pub(super) struct Footer {
    pub(super) columns: Vec<Column>,
    pub(super) groups: Vec<Group>,
}

impl Footer {
    /// Of its bytes.
    ///
    /// # Errors
    /// Why they are no footer.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let (footer, _) = Fields::read(bytes, VALUES_MAX)?;
        Self::of(&footer).ok_or("its end is not understood")
    }

    fn of(footer: &Fields) -> Option<Self> {
        let schema = footer.structures(2);
        let mut at = 1;
        let mut columns = Vec::new();
        // Depth first: a group stands before what is in it.
        for _ in 0..schema.first()?.count(5)? {
            let element = *schema.get(at)?;
            at = end(&schema, at, 0)?;
            columns.push(column(element)?);
        }
        let groups = footer.structures(4).into_iter().map(|group| {
            let chunks = group
                .structures(1)
                .into_iter()
                .map(chunk)
                .collect::<Option<_>>()?;
            Some(Group {
                rows: group.count(3)?,
                chunks,
            })
        });
        Some(Self {
            columns,
            groups: groups.collect::<Option<_>>()?,
        })
    }
}

/// Where the element after this one and all in it stands.
fn end(schema: &[&Fields], at: usize, depth: usize) -> Option<usize> {
    let inside = schema.get(at)?.count(5).unwrap_or(0);
    if depth > 64 {
        return None;
    }
    (0..inside).try_fold(at + 1, |at, _| end(schema, at, depth + 1))
}

fn column(element: &Fields) -> Option<Column> {
    let (repetition, converted) = (element.number(3).unwrap_or(0), element.number(6));
    let logical = element.fields(10);
    let is_decimal = converted == Some(5) || logical.is_some_and(|logical| logical.fields(5).is_some());
    let integer = logical.and_then(|logical| logical.fields(10));
    let is_unsigned =
        matches!(converted, Some(11..=14)) || integer.and_then(|one| one.truth(2)) == Some(false);
    let kind = match (element.number(1), is_unsigned) {
        _ if element.count(5).unwrap_or(0) > 0 || repetition == 2 => Err("lists or structures"),
        _ if is_decimal => Err("decimal numbers"),
        (Some(0), _) => Ok(Kind::Truth),
        (Some(1), false) => Ok(Kind::Int32),
        (Some(1), true) => Ok(Kind::Uint32),
        (Some(2), false) => Ok(Kind::Int64),
        (Some(2), true) => Ok(Kind::Uint64),
        (Some(4), _) => Ok(Kind::Float),
        (Some(5), _) => Ok(Kind::Double),
        (Some(6), _) => Ok(Kind::Text),
        _ => Err("values of a type that is not known here"),
    };
    Some(Column {
        name: element.text(4)?,
        kind,
        is_optional: repetition == 1,
    })
}

fn chunk(chunk: &Fields) -> Option<Chunk> {
    let about = chunk.fields(3)?;
    let data = about.number(9)?;
    // Some writers name a dictionary at 0, where there is none.
    let start = about
        .number(11)
        .filter(|&at| at > 0)
        .map_or(data, |at| at.min(data));
    Some(Chunk {
        path: about.texts(3),
        codec: about.number(4)?,
        start: u64::try_from(start).ok()?,
        size: about.count(7)?,
    })
}

impl Kind {
    /// Bytes of one value, where all have as many.
    pub(super) fn width(self) -> Option<usize> {
        match self {
            Self::Truth => Some(1),
            Self::Int32 | Self::Uint32 | Self::Float => Some(4),
            Self::Int64 | Self::Uint64 | Self::Double => Some(8),
            Self::Text => None,
        }
    }
}
