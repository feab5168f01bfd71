//! What is to be sealed: files on disk or in memory, with what the manifest says of them. Used by whoever
//! seals; reads nothing before sealing.

use crate::digest::{Sha256, sha256};
use crate::entry::Entry;
use crate::reader::Reader;
use crate::{Result, VaultError, paths};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

/// Where a file's bytes come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file on this machine, read while sealing.
    Path(PathBuf),
    /// The same, read only where it lies in bounds, whatever links led to it.
    Within {
        /// The file.
        path: PathBuf,
        /// Where it may lie.
        bounds: Arc<Bounds>,
    },
    /// Bytes in memory.
    Bytes(Bytes),
    /// A file of the version before, by its path there, which stays as it is: its bytes are not given again.
    Kept(String),
    /// A file of an open version of a dataset; or, with objects taken over, not read at all. Read only where blocking is
    /// allowed, inside a tokio runtime.
    Sealed {
        /// The version.
        reader: Reader,
        /// The file's path in it.
        path: String,
    },
    /// Not a file: an empty directory to keep.
    Directory,
}

/// Where files may be read: folders, without links in their own paths.
#[derive(Clone, Debug, Default)]
pub struct Bounds {
    /// What lies in these may be read.
    pub shown: Vec<PathBuf>,
    /// What lies in these may not.
    pub hidden: Vec<PathBuf>,
}

impl Bounds {
    /// Whether a path without links is within. Of folders in one another the innermost counts; of the same one, that it is
    /// shown.
    pub fn hold(&self, real: &Path) -> bool {
        let depth = |folders: &[PathBuf]| {
            let around = folders.iter().filter(|folder| real.starts_with(folder));
            around.map(|folder| folder.components().count()).max()
        };
        let shown = depth(&self.shown);
        // No folder at all is less than any.
        shown.is_some() && shown >= depth(&self.hidden)
    }
}

/// One file to seal.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// Path in the dataset, relative, components joined by `/`.
    pub path: String,
    /// Where the bytes are.
    pub source: Source,
    /// MIME type; guessed from the name when none is given.
    pub mime: Option<String>,
    /// Time of last change, unix seconds.
    pub mtime: Option<u64>,
    /// Hint that the file is a program.
    pub executable: bool,
    /// The owner's own notes on the file, such as `split` or `label`.
    pub attributes: BTreeMap<String, String>,
}

impl SourceFile {
    /// A file on disk under the name `path`.
    pub fn file(path: impl Into<String>, source: impl Into<PathBuf>) -> Self {
        Self::new(path.into(), Source::Path(source.into()))
    }

    /// A file from memory under the name `path`.
    pub fn bytes(path: impl Into<String>, bytes: impl Into<Bytes>) -> Self {
        Self::new(path.into(), Source::Bytes(bytes.into()))
    }

    /// A file of the version before that stays as it is, given without its bytes. What the manifest says of it stays too.
    pub fn kept(path: impl Into<String>) -> Self {
        let path = path.into();
        Self::new(path.clone(), Source::Kept(path))
    }

    /// As [`SourceFile::kept`], for a file that was under the path `from` and is now, or is also, under `path`.
    pub fn kept_as(path: impl Into<String>, from: impl Into<String>) -> Self {
        Self::new(path.into(), Source::Kept(from.into()))
    }

    /// A directory, needed only when nothing lies in it.
    pub fn directory(path: impl Into<String>) -> Self {
        Self::new(path.into(), Source::Directory)
    }

    /// What an open version says of one of its entries.
    pub(crate) fn sealed(reader: &Reader, entry: &Entry) -> Self {
        let source = if entry.is_file() {
            Source::Sealed {
                reader: reader.clone(),
                path: entry.path.clone(),
            }
        } else {
            Source::Directory
        };
        Self {
            path: entry.path.clone(),
            source,
            mime: Some(entry.mime.clone()),
            mtime: entry.mtime,
            executable: entry.executable,
            attributes: entry.attributes.clone(),
        }
    }

    /// With the version known that kept files are of; a file that is given stays as it is.
    ///
    /// # Errors
    /// `E_NOT_FOUND` for one that is not in that version, or when there is none.
    pub(crate) fn settle(self, previous: Option<&Reader>) -> Result<Self> {
        let Source::Kept(from) = &self.source else {
            return Ok(self);
        };
        let entry = previous.and_then(|reader| Some((reader, reader.entry(from)?)));
        let Some((reader, entry)) = entry else {
            return Err(unsettled(from));
        };
        let mut file = Self::sealed(reader, entry);
        if self.path != entry.path {
            // Another ending may be another type.
            file.mime = self.mime;
            file.path = self.path;
        }
        Ok(file)
    }

    fn new(path: String, source: Source) -> Self {
        Self {
            path,
            source,
            mime: None,
            mtime: None,
            executable: false,
            attributes: BTreeMap::new(),
        }
    }

    pub(crate) fn is_directory(&self) -> bool {
        matches!(self.source, Source::Directory)
    }

    /// Size now, bytes.
    ///
    /// # Errors
    /// `E_IO` when the file is gone.
    pub fn size(&self) -> Result<u64> {
        match &self.source {
            Source::Path(path) => std::fs::metadata(path)
                .map(|meta| meta.len())
                .map_err(io("read", path)),
            Source::Within { path, bounds } => open_within(path, bounds)
                .and_then(|file| file.metadata())
                .map(|meta| meta.len())
                .map_err(io("read", path)),
            Source::Bytes(bytes) => Ok(bytes.len() as u64),
            Source::Sealed { reader, path } => Ok(reader.entry(path).map_or(0, |entry| entry.size)),
            Source::Kept(from) => Err(unsettled(from)),
            Source::Directory => Ok(0),
        }
    }

    /// Opens the file for reading.
    pub(crate) fn open(&self) -> Result<Box<dyn Read + Send>> {
        self.open_at(0)
    }

    /// As [`SourceFile::open`], from this byte on.
    pub(crate) fn open_at(&self, offset: u64) -> Result<Box<dyn Read + Send>> {
        let seek = |mut file: File, path: &Path| -> Result<Box<dyn Read + Send>> {
            file.seek(SeekFrom::Start(offset)).map_err(io("read", path))?;
            Ok(Box::new(file))
        };
        match &self.source {
            Source::Path(path) => seek(File::open(path).map_err(io("open", path))?, path),
            Source::Within { path, bounds } => {
                seek(open_within(path, bounds).map_err(io("open", path))?, path)
            }
            Source::Bytes(bytes) => {
                let from = usize::try_from(offset).map_or(bytes.len(), |from| from.min(bytes.len()));
                Ok(Box::new(std::io::Cursor::new(bytes.slice(from..))))
            }
            Source::Sealed { reader, path } => Ok(Box::new(SealedRead {
                reader: reader.clone(),
                path: path.clone(),
                at: offset,
            })),
            Source::Kept(from) => Err(unsettled(from)),
            Source::Directory => Ok(Box::new(std::io::empty())),
        }
    }

    /// SHA-256 of the content, read in pieces.
    pub(crate) fn digest(&self) -> Result<[u8; 32]> {
        if let Source::Bytes(bytes) = &self.source {
            return Ok(sha256(&[bytes]));
        }
        if let Source::Sealed { reader, path } = &self.source
            && let Some(entry) = reader.entry(path)
        {
            return Ok(entry.sha256);
        }
        let mut reader = self.open()?;
        let mut hasher = Sha256::new();
        let mut piece = vec![0; 1 << 20];
        loop {
            match reader
                .read(&mut piece)
                .map_err(io("read", Path::new(&self.path)))?
            {
                0 => return Ok(hasher.finalize()),
                read => hasher.update(&piece[..read]),
            }
        }
    }

    pub(crate) fn mime_or_guess(&self) -> String {
        self.mime
            .clone()
            .unwrap_or_else(|| guess_mime(&self.path).to_owned())
    }
}

/// A kept file is nothing by itself.
fn unsettled(path: &str) -> VaultError {
    VaultError::NotFound {
        path: path.chars().take(200).collect(),
    }
}

/// Reads a file of an open version.
struct SealedRead {
    reader: Reader,
    path: String,
    at: u64,
}

impl Read for SealedRead {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let handle = tokio::runtime::Handle::try_current().map_err(std::io::Error::other)?;
        let read = handle.block_on(self.reader.read_range(&self.path, self.at, into.len() as u64));
        let bytes = read.map_err(std::io::Error::other)?;
        into.get_mut(..bytes.len())
            .unwrap_or_default()
            .copy_from_slice(&bytes);
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }
}

/// Opens a file that lies in these bounds. Looked at once it is open: a path may lead elsewhere a moment later.
///
/// # Errors
/// `PermissionDenied` for one that lies elsewhere, `InvalidInput` for what is no file; what the system says otherwise.
pub fn open_within(path: &Path, bounds: &Bounds) -> std::io::Result<File> {
    // A pipe would be waited at, and a terminal taken over, before it is seen what it is.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    let real = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    if !bounds.hold(&real) {
        return Err(std::io::ErrorKind::PermissionDenied.into());
    }
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(std::io::ErrorKind::InvalidInput.into()),
    }
}

/// Lists a folder, itself left out, in path order: files and empty directories. Of a file it is that file alone.
///
/// # Errors
/// `E_PATH` for names a dataset may not have and for links, devices and sockets; `E_IO` for what can not be read.
pub fn walk(dir: &Path) -> Result<Vec<SourceFile>> {
    let meta = std::fs::metadata(dir).map_err(io("read the folder", dir))?;
    if let Some(name) = dir.file_name().filter(|_| meta.is_file()) {
        let name = name.to_string_lossy().into_owned();
        paths::check(&name)?;
        return Ok(vec![dated(SourceFile::file(name, dir), &meta)]);
    }
    if !meta.is_dir() {
        let source = std::io::Error::from(std::io::ErrorKind::NotADirectory);
        return Err(VaultError::Io {
            action: "read the folder",
            path: dir.to_owned(),
            source,
        });
    }
    let mut found = Vec::new();
    walk_into(dir, "", &mut found)?;
    found.sort_by(|one, two| one.path.cmp(&two.path));
    Ok(found)
}

fn walk_into(dir: &Path, prefix: &str, found: &mut Vec<SourceFile>) -> Result<()> {
    for item in std::fs::read_dir(dir).map_err(io("read the folder", dir))? {
        let item = item.map_err(io("read the folder", dir))?;
        let place = item.path();
        let name = item.file_name().into_string().map_err(|name| VaultError::Path {
            path: name.to_string_lossy().into_owned(),
            reason: "its name is not UTF-8".into(),
        })?;
        let path = if prefix.is_empty() {
            name
        } else {
            format!("{prefix}/{name}")
        };
        paths::check(&path)?;
        let meta = std::fs::symlink_metadata(&place).map_err(io("read", &place))?;
        let file = if meta.is_dir() {
            let before = found.len();
            walk_into(&place, &path, found)?;
            if found.len() > before {
                continue;
            }
            SourceFile::directory(path)
        } else if meta.is_file() {
            SourceFile::file(path, place)
        } else {
            let reason = "it is a link, device or socket, and a dataset holds files and folders only";
            return Err(VaultError::Path {
                path,
                reason: reason.into(),
            });
        };
        found.push(dated(file, &meta));
    }
    Ok(())
}

/// With the time and the mode that the disk says.
fn dated(mut file: SourceFile, meta: &std::fs::Metadata) -> SourceFile {
    let modified = meta.modified().ok();
    file.mtime = modified
        .and_then(|at| at.duration_since(UNIX_EPOCH).ok())
        .map(|at| at.as_secs());
    file.executable = meta.is_file() && meta.permissions().mode() & 0o100 != 0;
    file
}

/// Turns an `io::Error` into ours.
pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> VaultError {
    let path = path.to_owned();
    move |source| VaultError::Io { action, path, source }
}

fn guess_mime(path: &str) -> &'static str {
    let name = path.rsplit('/').next().unwrap_or(path);
    let ending = name
        .rsplit_once('.')
        .map_or("", |(_, ending)| ending)
        .to_ascii_lowercase();
    match ending.as_str() {
        "csv" => "text/csv",
        "gif" => "image/gif",
        "html" => "text/html",
        "jpg" | "jpeg" => "image/jpeg",
        "json" | "ipynb" => "application/json",
        "jsonl" => "application/jsonl",
        "md" => "text/markdown",
        "mp3" => "audio/mpeg",
        "mp4" => "video/mp4",
        "parquet" => "application/vnd.apache.parquet",
        "pdf" => "application/pdf",
        "png" => "image/png",
        "svg" => "image/svg+xml",
        "tar" => "application/x-tar",
        "tsv" => "text/tab-separated-values",
        "txt" => "text/plain",
        "wav" => "audio/wav",
        "webp" => "image/webp",
        "zip" => "application/zip",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_files_and_empty_folders_in_order() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("b/empty")).unwrap();
        std::fs::write(dir.path().join("b/x.csv"), "1").unwrap();
        std::fs::write(dir.path().join("a.txt"), "2").unwrap();
        let found = walk(dir.path()).unwrap();
        let paths: Vec<_> = found.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["a.txt", "b/empty", "b/x.csv"]);
        assert!(found[1].is_directory());
        assert_eq!(found[2].mime_or_guess(), "text/csv");
        assert!(found[0].mtime.is_some());
    }

    #[test]
    fn a_file_is_a_tree_of_itself() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("towns.csv");
        std::fs::write(&path, "1").unwrap();
        let found = walk(&path).unwrap();
        assert_eq!((found.len(), found[0].path.as_str()), (1, "towns.csv"));
        assert!(found[0].mtime.is_some() && !found[0].is_directory());
    }

    #[test]
    fn refuses_links_and_says_which() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        let error = walk(dir.path()).unwrap_err();
        assert_eq!(error.code(), "E_PATH");
        assert!(error.to_string().contains("link"));
    }

    #[test]
    fn a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_at() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().canonicalize().unwrap();
        let (file, pipe) = (folder.join("a"), folder.join("pipe"));
        let bounds = Bounds {
            shown: vec![folder.clone()],
            ..Bounds::default()
        };
        std::fs::write(&file, "1").unwrap();
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        assert!(open_within(&file, &bounds).is_ok());
        for bad in [&pipe, &folder] {
            let error = open_within(bad, &bounds).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{bad:?}");
        }
    }

    #[test]
    fn of_folders_in_one_another_the_innermost_counts() {
        let folders = |all: &[&str]| -> Vec<PathBuf> { all.iter().map(PathBuf::from).collect() };
        let bounds = Bounds {
            shown: folders(&["/people/u", "/people/u/data/lab/0xab"]),
            hidden: folders(&["/people/u/data", "/people/u/data/lab/0xab"]),
        };
        for (path, is_within) in [
            ("/people/u/a", true),
            ("/people/u/data/wallet.key", false),
            ("/people/u/data/lab/0xcd/a", false),
            ("/people/u/data/lab/0xab/a", true),
            ("/people/u/database", true),
            ("/people/v/a", false),
        ] {
            assert_eq!(bounds.hold(Path::new(path)), is_within, "{path}");
        }
    }

    #[test]
    fn says_which_folder_is_missing() {
        let error = walk(Path::new("/nonexistent/folder")).unwrap_err();
        assert_eq!(error.code(), "E_IO");
        assert!(error.to_string().contains("/nonexistent/folder"));
    }
}
