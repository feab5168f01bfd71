//! What a file is, by its content. The allow-list of V3: what is not recognised here is refused.
//!
//! The name decides only between kinds of text, which are all read by people or by data parsers, and never makes an
//! executable format acceptable. Notebooks are one of them although their cells are code: nothing runs them by loading
//! the model, and check V5 runs `verify.ipynb` itself, in its sandbox.

use crate::formats::{image, npy, onnx, protobuf, safetensors, text, zip};

/// A format that may be in a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Safetensors,
    Gguf,
    Onnx,
    /// Raw bytes of tensors that an ONNX model of the revision points to.
    OnnxData,
    Json,
    JsonLines,
    Notebook,
    Template,
    Text,
    SentencePiece,
    Png,
    Jpeg,
    Webp,
    Npy,
    /// A zip archive; whether it is NumPy's is seen in its directory.
    Zip,
    Empty,
}

impl Kind {
    /// For people, with its article.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Safetensors => "a safetensors file",
            Self::Gguf => "a GGUF file",
            Self::Onnx => "an ONNX model",
            Self::OnnxData => "tensor data of an ONNX model",
            Self::Json => "a JSON file",
            Self::JsonLines => "a JSON lines file",
            Self::Notebook => "a notebook",
            Self::Template => "a chat template",
            Self::Text => "plain text",
            Self::SentencePiece => "a SentencePiece model",
            Self::Png => "a PNG picture",
            Self::Jpeg => "a JPEG picture",
            Self::Webp => "a WebP picture",
            Self::Npy => "a NumPy array",
            Self::Zip => "a NumPy archive",
            Self::Empty => "an empty file",
        }
    }
}

/// A format that may not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused {
    /// For people, with its article.
    pub(crate) what: &'static str,
    /// Why, going on after "which".
    pub(crate) why: &'static str,
    /// What to do.
    pub(crate) hint: &'static str,
}

const WEIGHTS: &str =
    "convert the weights to safetensors, such as by `safetensors.torch.save_file`, and publish those";
const CODE: &str = "publish programs elsewhere; a model is weights, configuration, tokenizer and card";
const ARCHIVES: &str = "unpack it and publish the files themselves";
const NATIVE: &str = "is native code that runs";

pub(crate) const PICKLE: Refused = Refused {
    what: "a Python pickle",
    why: "runs whatever code it carries when it is loaded",
    hint: WEIGHTS,
};
pub(crate) const TORCH: Refused = Refused {
    what: "a PyTorch archive with a pickle in it",
    ..PICKLE
};
pub(crate) const OBJECTS: Refused = Refused {
    what: "a NumPy file with Python objects",
    why: "are pickles and run the code that they carry when they are loaded",
    hint: "save plain arrays of numbers, with `allow_pickle=False`",
};
pub(crate) const JAR: Refused = Refused {
    what: "a Java archive",
    why: "is a program",
    hint: CODE,
};
pub(crate) const KERAS: Refused = Refused {
    what: "a Keras archive",
    why: "can carry layers that are Python code",
    hint: WEIGHTS,
};
pub(crate) const ZIP: Refused = Refused {
    what: "a zip archive",
    why: "hides files from every check",
    hint: ARCHIVES,
};
pub(crate) const LOADS_CODE: Refused = Refused {
    what: "a configuration that names Python code",
    why: "makes loaders fetch and run it (`auto_map`, `custom_pipelines`, `_target_`, `parent_library`)",
    hint: "remove that key, so that the model loads with classes of its library alone",
};
pub(crate) const YAML_TAGS: Refused = Refused {
    what: "YAML with tags of objects",
    why: "makes loaders run code",
    hint: "write plain YAML, without tags such as `!!python` and without `%TAG`",
};
/// What a finding of V3 says of a file that no check knows: it may be harmless.
pub const UNKNOWN_FORMAT: &str = "of an unknown binary format";
pub(crate) const UNKNOWN: Refused = Refused {
    what: UNKNOWN_FORMAT,
    why: "cannot be shown to carry no code",
    hint: "publish weights as safetensors, GGUF or ONNX, arrays as npy or npz, and everything else as UTF-8 text or JSON",
};

/// Magic bytes at a file's start, and what has them. Longer ones stand first where one begins another.
const MAGICS: [(&[u8], Refused); 24] = [
    (b"\x7fELF", native("an ELF program or shared library")),
    (b"\xfe\xed\xfa\xce", native("a Mach-O program or library")),
    (b"\xfe\xed\xfa\xcf", native("a Mach-O program or library")),
    (b"\xce\xfa\xed\xfe", native("a Mach-O program or library")),
    (b"\xcf\xfa\xed\xfe", native("a Mach-O program or library")),
    (
        b"\xca\xfe\xba\xbe\x00\x00\x00",
        native("a Mach-O library or a Java class"),
    ),
    (b"\xca\xfe\xba\xbe", native("a Mach-O library or a Java class")),
    (b"!<arch>\n", native("a library of object files")),
    (b"\0asm", native("a WebAssembly module")),
    (b"BC\xc0\xde", native("LLVM bitcode")),
    (b"dex\n", native("an Android program")),
    (b"\x1bLua", native("a compiled Lua program")),
    (b"#!", refused("a script", "is a program", CODE)),
    (
        b"\x89HDF\r\n\x1a\n",
        refused(
            "an HDF5 file",
            "can carry Keras layers that are Python code",
            WEIGHTS,
        ),
    ),
    (
        b"%PDF-",
        refused("a PDF document", "can carry scripts", "publish text as Markdown"),
    ),
    (b"\x1f\x8b", archive("a gzip archive")),
    (b"BZh", archive("a bzip2 archive")),
    (b"\xfd7zXZ\0", archive("an xz archive")),
    (b"\x28\xb5\x2f\xfd", archive("a Zstandard archive")),
    (b"7z\xbc\xaf\x27\x1c", archive("a 7-Zip archive")),
    (b"Rar!\x1a\x07", archive("a RAR archive")),
    (b"\x04\x22\x4d\x18", archive("an LZ4 archive")),
    (b"MSCF", archive("a Windows cabinet")),
    (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        archive("an OLE document or installer"),
    ),
];

const fn refused(what: &'static str, why: &'static str, hint: &'static str) -> Refused {
    Refused { what, why, hint }
}

const fn native(what: &'static str) -> Refused {
    refused(what, NATIVE, CODE)
}

const fn archive(what: &'static str) -> Refused {
    refused(what, "hides files from every check", ARCHIVES)
}

/// Endings of text that is a program to somebody.
const PROGRAMS: [&str; 36] = [
    "py", "pyw", "pyi", "pyx", "sh", "bash", "zsh", "fish", "bat", "cmd", "ps1", "psm1", "js", "mjs", "cjs",
    "ts", "rb", "pl", "php", "lua", "r", "jl", "c", "cc", "cpp", "h", "cu", "rs", "go", "java", "vbs", "wsf",
    "hta", "reg", "desktop", "pth",
];
/// Endings of text that is data or for reading. Files without an ending, such as `LICENSE`, are text too.
const TEXTS: [&str; 29] = [
    "md",
    "markdown",
    "txt",
    "rst",
    "json",
    "jsonl",
    "ndjson",
    "ipynb",
    "yaml",
    "yml",
    "toml",
    "cfg",
    "ini",
    "csv",
    "tsv",
    "jinja",
    "jinja2",
    "bpe",
    "vocab",
    "merges",
    "model",
    "tiktoken",
    "codes",
    "bib",
    "cff",
    "sha256",
    "gitattributes",
    "gitignore",
    "template",
];

/// Names of files that programs run by name, whatever their ending.
const PROGRAM_NAMES: [&str; 19] = [
    "makefile",
    "gnumakefile",
    "dockerfile",
    "containerfile",
    "vagrantfile",
    "jenkinsfile",
    "rakefile",
    "gemfile",
    "snakefile",
    "justfile",
    "procfile",
    "sconstruct",
    "sconscript",
    "wscript",
    "cmakelists.txt",
    "package.json",
    "pyproject.toml",
    "setup.cfg",
    "tox.ini",
];
/// Folders whose files programs run when the folder around them is opened.
const PROGRAM_FOLDERS: [&str; 6] = [
    ".vscode",
    ".devcontainer",
    ".github",
    ".circleci",
    ".idea",
    "__pycache__",
];

/// Whether the name alone says that a file is run by somebody.
fn is_program(path: &str) -> bool {
    let path = path.to_lowercase();
    let (folders, name) = path.rsplit_once('/').unwrap_or(("", &path));
    PROGRAM_NAMES.contains(&name)
        || PROGRAMS.contains(&ending(name).as_str())
        || folders.split('/').any(|folder| PROGRAM_FOLDERS.contains(&folder))
}

/// The ending of a path's last part, in lower case; empty when it has none.
pub(crate) fn ending(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or_default();
    name.rsplit_once('.')
        .map_or(String::new(), |(_, ending)| ending.to_lowercase())
}

/// Knows a file by its first bytes, of which there are fewer than its size when it is longer.
pub(crate) fn of(path: &str, size: u64, head: &[u8]) -> Result<Kind, Refused> {
    if size == 0 {
        return empty(path);
    }
    if let Some((_, refused)) = MAGICS.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Err(*refused);
    }
    if is_pe(head) {
        return Err(native("a Windows program or library"));
    }
    // HDF5 may begin at 512, 1024, …; tar has its magic inside.
    if [512, 1024, 2048].iter().any(|at| {
        head.get(*at..)
            .is_some_and(|rest| rest.starts_with(b"\x89HDF\r\n\x1a\n"))
    }) {
        return Err(refused(
            "an HDF5 file",
            "can carry Keras layers that are Python code",
            WEIGHTS,
        ));
    }
    if head.get(257..262) == Some(b"ustar") {
        return Err(archive("a tar archive"));
    }
    match head {
        _ if head.starts_with(b"GGUF") => Ok(Kind::Gguf),
        _ if head.starts_with(npy::MAGIC) => Ok(Kind::Npy),
        _ if head.starts_with(zip::LOCAL) || head.starts_with(b"PK\x05\x06") => Ok(Kind::Zip),
        _ if head.starts_with(image::PNG) => Ok(Kind::Png),
        _ if head.starts_with(image::JPEG) => Ok(Kind::Jpeg),
        _ if head.starts_with(b"RIFF") && head.get(8..12) == Some(b"WEBP") => Ok(Kind::Webp),
        _ if text::looks_like(head, size > head.len() as u64) => of_text(path, head),
        _ if safetensors::looks_like(head) => Ok(Kind::Safetensors),
        _ if onnx::looks_like(head) => Ok(Kind::Onnx),
        _ if protobuf::looks_like_sentencepiece(head) => Ok(Kind::SentencePiece),
        _ => Err(UNKNOWN),
    }
}

fn empty(path: &str) -> Result<Kind, Refused> {
    if is_program(path) {
        return Err(program());
    }
    Ok(Kind::Empty)
}

fn program() -> Refused {
    refused("a program's source", "is run by those who load the model", CODE)
}

fn is_pe(head: &[u8]) -> bool {
    let at = head
        .get(0x3c..0x40)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u32::from_le_bytes);
    let has_header = at
        .and_then(|at| head.get(usize::try_from(at).ok()?..))
        .is_some_and(|rest| rest.starts_with(b"PE\0\0"));
    // A DOS program has no PE header, but zero bytes, which text has not.
    head.starts_with(b"MZ") && (has_header || head.contains(&0))
}

/// Text: what it is for, by its ending and its beginning.
fn of_text(path: &str, head: &[u8]) -> Result<Kind, Refused> {
    let ending = ending(path);
    let start = String::from_utf8_lossy(head.get(..head.len().min(512)).unwrap_or_default())
        .trim_start_matches('\u{feff}')
        .trim_start()
        .to_lowercase();
    if is_program(path) {
        return Err(program());
    }
    if start.starts_with("#!") {
        return Err(refused("a script", "is a program", CODE));
    }
    let is_markup = ["<!doctype", "<html", "<svg", "<?xml", "<script", "<?php"]
        .iter()
        .any(|tag| start.starts_with(tag));
    if is_markup {
        let hint = "publish text as Markdown and pictures as PNG, JPEG or WebP";
        return Err(refused("a web page or SVG", "can carry scripts", hint));
    }
    let has_ending = path.rsplit('/').next().is_some_and(|name| name.contains('.'));
    match ending.as_str() {
        "json" => Ok(Kind::Json),
        "jsonl" | "ndjson" => Ok(Kind::JsonLines),
        "ipynb" => Ok(Kind::Notebook),
        "jinja" | "jinja2" => Ok(Kind::Template),
        known if TEXTS.contains(&known) || !has_ending => Ok(Kind::Text),
        _ => Err(refused(
            "text with an unknown ending",
            "could be a program to somebody",
            "if it is only for reading, rename it to .txt or .md",
        )),
    }
}
