//! Manifest root and object table (container section 7): plain data, its canonical CBOR, and checks that need
//! nothing but the manifest. Fetches nothing; pages of file entries are in `entry`.

use crate::cbor::{MAX_STRING, Reader, Writer};
use crate::digest::sha256;
use crate::keys::EpochSecret;
use crate::{DatasetId, Result, VaultError, merkle};
use std::collections::BTreeMap;

/// What a dataset says of itself; sealed in the manifest root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// One line.
    pub title: Option<String>,
    /// At most 4,096 bytes.
    pub description: Option<String>,
    /// SPDX expression or name of the licence.
    pub licence: Option<String>,
    /// Unix seconds.
    pub created: Option<u64>,
}

/// One row of the object table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) object_id: [u8; 16],
    pub(crate) epoch: u32,
    pub(crate) plaintext_len: u64,
    pub(crate) ciphertext_len: u64,
    pub(crate) sha256: [u8; 32],
    pub(crate) item_hash: String,
    /// Number of the object that holds this one's leaves.
    pub(crate) leaves: Option<u32>,
}

/// A page of file entries, as the root lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PageRef {
    pub(crate) first: String,
    pub(crate) last: String,
    pub(crate) object: u32,
    pub(crate) entries: u64,
}

/// Key 4 of the root: the rows themselves, or the pages that hold them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    Rows(Vec<Row>),
    Pages(Vec<Row>),
}

/// The manifest root. No `Debug`: it can carry older epochs' secrets.
pub(crate) struct Root {
    pub(crate) dataset: DatasetId,
    pub(crate) version: u64,
    pub(crate) obj_log2: u8,
    pub(crate) table: Table,
    pub(crate) pages: Vec<PageRef>,
    pub(crate) older: BTreeMap<u32, EpochSecret>,
    pub(crate) files: u64,
    pub(crate) directories: u64,
    pub(crate) bytes: u64,
    pub(crate) meta: Meta,
    pub(crate) tree: [u8; 32],
}

impl Meta {
    /// # Errors
    /// `E_LIMIT` for a text of more than 4,096 bytes.
    pub(crate) fn check(&self) -> Result<()> {
        let texts = [
            ("title", &self.title),
            ("description", &self.description),
            ("licence", &self.licence),
        ];
        for (name, text) in texts {
            if text.as_ref().is_some_and(|text| text.len() > MAX_STRING) {
                let what = format!("the {name} in bytes");
                return Err(VaultError::Limit {
                    what,
                    limit: MAX_STRING as u64,
                });
            }
        }
        Ok(())
    }
}

impl Row {
    /// Checks what needs only the row and the root's epoch and object size.
    pub(crate) fn check(&self, epoch: u32, obj_log2: u8) -> Result<()> {
        if self.plaintext_len > 1 << obj_log2 {
            return Err(VaultError::Limit {
                what: "an object's plaintext in bytes".into(),
                limit: 1 << obj_log2,
            });
        }
        let expected = crate::object::ciphertext_len(self.plaintext_len);
        if self.ciphertext_len != expected {
            return Err(VaultError::Length {
                object: self.item_hash.clone(),
                expected,
                got: self.ciphertext_len,
            });
        }
        if self.epoch == 0 || self.epoch > epoch {
            let reason = format!(
                "object {} is of epoch {}, the head of {epoch}",
                self.item_hash, self.epoch
            );
            return Err(VaultError::Epoch { reason });
        }
        let plain =
            !self.item_hash.is_empty() && self.item_hash.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if plain && self.item_hash.len() <= 128 {
            return Ok(());
        }
        Err(VaultError::Cbor {
            what: "object table",
            reason: "an item hash is no hash".into(),
        })
    }

    pub(crate) fn write(&self, to: &mut Writer) {
        to.array(7)
            .bytes(&self.object_id)
            .uint(self.epoch.into())
            .uint(self.plaintext_len);
        to.uint(self.ciphertext_len)
            .bytes(&self.sha256)
            .text(&self.item_hash);
        to.optional_uint(self.leaves.map(u64::from));
    }

    pub(crate) fn read(from: &mut Reader<'_>) -> Result<Self> {
        from.tuple(7)?;
        Ok(Self {
            object_id: from.bytes()?,
            epoch: from.u32()?,
            plaintext_len: from.uint()?,
            ciphertext_len: from.uint()?,
            sha256: from.bytes()?,
            item_hash: from.text()?,
            leaves: if from.null()? { None } else { Some(from.u32()?) },
        })
    }

    fn encoded(&self) -> Vec<u8> {
        let mut to = Writer::new();
        self.write(&mut to);
        to.finish()
    }
}

/// Key 12: RFC 9162 tree over the rows.
pub(crate) fn tree_hash(rows: &[Row]) -> [u8; 32] {
    let leaves: Vec<_> = rows.iter().map(|row| sha256(&[&[0], &row.encoded()])).collect();
    merkle::root(&leaves)
}

/// Encoded rows as a page of type "t".
pub(crate) fn encode_table_page(rows: &[Row]) -> Vec<u8> {
    let mut to = Writer::new();
    to.map(2).uint(1).text("t").uint(2).array(rows.len());
    rows.iter().for_each(|row| row.write(&mut to));
    to.finish()
}

/// Reads a page of type "t".
pub(crate) fn decode_table_page(bytes: &[u8]) -> Result<Vec<Row>> {
    let mut from = Reader::new("table page", bytes)?;
    page_header(&mut from, "t")?;
    let count = from.array()?;
    let rows = (0..count)
        .map(|_| Row::read(&mut from))
        .collect::<Result<Vec<_>>>()?;
    from.end(&encode_table_page(&rows))?;
    Ok(rows)
}

pub(crate) fn page_header(from: &mut Reader<'_>, kind: &str) -> Result<()> {
    let count = from.map()?;
    if count != 2 || from.uint()? != 1 || from.text()? != kind || from.uint()? != 2 {
        return Err(from.refuse(format!("it is no page of type {kind}")));
    }
    Ok(())
}

impl Root {
    /// Canonical CBOR; the caller zeroizes it, for it can hold secrets.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut to = Writer::new();
        let texts = [
            (8, &self.meta.title),
            (9, &self.meta.description),
            (10, &self.meta.licence),
        ];
        let optional = texts.iter().filter(|(_, text)| text.is_some()).count()
            + usize::from(!self.older.is_empty())
            + usize::from(self.meta.created.is_some());
        to.map(7 + optional)
            .uint(1)
            .bytes(&self.dataset.0)
            .uint(2)
            .uint(self.version);
        to.uint(3).uint(self.obj_log2.into()).uint(4);
        match &self.table {
            Table::Rows(rows) => {
                to.array(rows.len());
                rows.iter().for_each(|row| row.write(&mut to));
            }
            Table::Pages(pages) => {
                to.array(pages.len());
                for page in pages {
                    to.array(1);
                    page.write(&mut to);
                }
            }
        }
        to.uint(5).array(self.pages.len());
        for page in &self.pages {
            to.array(4)
                .text(&page.first)
                .text(&page.last)
                .uint(page.object.into())
                .uint(page.entries);
        }
        if !self.older.is_empty() {
            to.uint(6).map(self.older.len());
            for (epoch, secret) in &self.older {
                to.uint((*epoch).into()).bytes(secret.expose());
            }
        }
        to.uint(7)
            .array(3)
            .uint(self.files)
            .uint(self.directories)
            .uint(self.bytes);
        for (key, text) in texts {
            if let Some(text) = text {
                to.uint(key).text(text);
            }
        }
        if let Some(created) = self.meta.created {
            to.uint(11).uint(created);
        }
        to.uint(12).bytes(&self.tree);
        to.finish()
    }

    /// Reads a root, refusing what is not canonical.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut from = Reader::new("manifest root", bytes)?;
        let mut root = Self {
            dataset: DatasetId([0; 32]),
            version: 0,
            obj_log2: 0,
            table: Table::Rows(Vec::new()),
            pages: Vec::new(),
            older: BTreeMap::new(),
            files: 0,
            directories: 0,
            bytes: 0,
            meta: Meta::default(),
            tree: [0; 32],
        };
        let mut seen = 0_u32;
        for _ in 0..from.map()? {
            let key = from.uint()?;
            root.field(key, &mut from)?;
            seen |= 1 << key;
        }
        let needed = 0b1_0000_1011_1110;
        if seen & needed != needed {
            return Err(from.refuse("a field is missing"));
        }
        let again = zeroize::Zeroizing::new(root.encode());
        from.end(&again)?;
        if !(20..=26).contains(&root.obj_log2) {
            return Err(VaultError::Limit {
                what: "obj_log2".into(),
                limit: 26,
            });
        }
        Ok(root)
    }

    fn field(&mut self, key: u64, from: &mut Reader<'_>) -> Result<()> {
        match key {
            1 => self.dataset = DatasetId(from.bytes()?),
            2 => self.version = from.uint()?,
            3 => self.obj_log2 = u8::try_from(from.uint()?).unwrap_or(u8::MAX),
            4 => self.table = read_table(from)?,
            5 => {
                self.pages = (0..from.array()?)
                    .map(|_| PageRef::read(from))
                    .collect::<Result<_>>()?
            }
            6 => {
                for _ in 0..from.map()? {
                    let epoch = from.u32()?;
                    self.older.insert(epoch, EpochSecret::from_bytes(from.bytes()?));
                }
            }
            7 => {
                from.tuple(3)?;
                (self.files, self.directories, self.bytes) = (from.uint()?, from.uint()?, from.uint()?);
            }
            8 => self.meta.title = Some(from.text()?),
            9 => self.meta.description = Some(from.text()?),
            10 => self.meta.licence = Some(from.text()?),
            11 => self.meta.created = Some(from.uint()?),
            12 => self.tree = from.bytes()?,
            other => return Err(from.refuse(format!("it has the unknown key {other}"))),
        }
        Ok(())
    }
}

impl PageRef {
    fn read(from: &mut Reader<'_>) -> Result<Self> {
        from.tuple(4)?;
        Ok(Self {
            first: from.text()?,
            last: from.text()?,
            object: from.u32()?,
            entries: from.uint()?,
        })
    }
}

/// Rows are arrays of seven; a page list wraps each row of a table page in an array of one.
fn read_table(from: &mut Reader<'_>) -> Result<Table> {
    let count = from.array()?;
    let mut rows = Vec::new();
    let mut pages = Vec::new();
    for _ in 0..count {
        if from.next_array() == Some(1) {
            from.tuple(1)?;
            pages.push(Row::read(from)?);
        } else {
            rows.push(Row::read(from)?);
        }
    }
    match (rows.is_empty(), pages.is_empty()) {
        (_, true) => Ok(Table::Rows(rows)),
        (true, false) => Ok(Table::Pages(pages)),
        (false, false) => Err(from.refuse("the object table mixes rows and pages")),
    }
}
