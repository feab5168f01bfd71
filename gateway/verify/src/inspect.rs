//! Looks at every file once: what it is (V3), whether it is well formed (V4), and where its tensor data is (for V6).
//!
//! Formats are parsed in [`crate::formats`]; here it is decided what a parser's answer means for a revision.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::elsewhere::{Elsewhere, Missing};
use crate::error::Result;
use crate::formats::{
    gguf, image, json, npy, onnx, pickle, protobuf, safetensors, template, text, yaml, zip,
};
use crate::kind::{self, Kind, Refused};
use crate::reader::{Fault, Parsed, Reader, Stop, fault, shown};
use crate::report::{Finding, Findings};
use crate::shards::{self, Shards};
use crate::source::{EntryKind, Source};

/// What misses files, and may find them in a revision.
const ELSEWHERE: &str = "an ONNX model with data elsewhere";
/// Bytes by which a file is known.
const HEAD: usize = 4096;

/// Where the bytes of tensors are, by number of the entry. Chance writes everything there, so scanners leave it out.
pub type TensorData = BTreeMap<usize, Vec<Range<u64>>>;

/// What all files are.
#[derive(Default)]
pub(crate) struct Inspected {
    /// Findings of V3.
    pub(crate) refused: Findings,
    /// Findings of V4.
    pub(crate) faults: Findings,
    pub(crate) tensor_data: TensorData,
    shards: Shards,
    /// Indexes of shards.
    indexes: Vec<usize>,
    /// Parts of other files that ONNX models point to.
    elsewhere: Elsewhere,
    /// Files that may yet be such parts.
    unknown: Vec<(usize, Refused)>,
}

/// Inspects every entry.
pub(crate) fn all(source: &dyn Source) -> Result<Inspected> {
    let mut all = Inspected::default();
    for entry in 0..source.entries().len() {
        if let Some(kind) = all.known(source, entry)? {
            let outcome = all.content(kind, source, entry);
            if kind == Kind::Safetensors && outcome.is_err() {
                all.shards.malformed(path(source, entry));
            }
            if kind == Kind::Json && path(source, entry).ends_with(shards::ENDING) {
                all.indexes.push(entry);
            }
            all.noted(outcome, kind.name(), source, entry)?;
        }
    }
    all.external_data(source)?;
    for entry in std::mem::take(&mut all.indexes) {
        let outcome = all.shards.index(source, entry);
        all.noted(outcome, "an index of shards", source, entry)?;
    }
    Ok(all)
}

/// Findings of V3 that some files among others give by themselves: those that carry code. Not what is of no known format, and not
/// what only the whole revision tells.
pub(crate) fn code(source: &dyn Source) -> Result<Findings> {
    let mut all = Inspected::default();
    for entry in 0..source.entries().len() {
        if let Some(kind) = all.known(source, entry)?
            && let Err(Stop::Source(error)) = all.content(kind, source, entry)
        {
            return Err(error);
        }
    }
    all.refused.forget(|finding| finding.what == ELSEWHERE);
    Ok(all.refused)
}

impl Inspected {
    fn refuse(&mut self, refused: Refused, source: &dyn Source, entry: usize) {
        let path = path(source, entry);
        let (what, why) = (refused.what, refused.why);
        self.refused.add(Finding {
            why: format!("`{}` is {what}, which {why}", shown(path)),
            file: path.to_owned(),
            what: what.to_owned(),
            hint: refused.hint.to_owned(),
        });
    }

    /// A fault becomes a finding of V4; what the source could not do goes on as an error.
    fn noted(&mut self, outcome: Parsed<()>, what: &str, source: &dyn Source, entry: usize) -> Result<()> {
        match outcome {
            Ok(()) => Ok(()),
            Err(Stop::Source(error)) => Err(error),
            Err(Stop::Fault(fault)) => {
                let path = path(source, entry);
                self.faults.add(finding(path, what, &fault));
                Ok(())
            }
        }
    }

    /// What a file is; refusals are noted.
    fn known(&mut self, source: &dyn Source, entry: usize) -> Result<Option<Kind>> {
        let Some(about) = source.entries().get(entry) else {
            return Ok(None);
        };
        if about.kind != EntryKind::File {
            let what = if about.kind == EntryKind::Symlink {
                "a symbolic link"
            } else {
                "a device, pipe or socket"
            };
            let refused = Refused {
                what,
                why: "leads out of the revision",
                hint: "publish the file itself",
            };
            self.refuse(refused, source, entry);
            return Ok(None);
        }
        match sniff(source, entry) {
            Ok(Ok(kind)) => Ok(Some(kind)),
            Ok(Err(refused)) if refused.what == kind::UNKNOWN.what => {
                self.unknown.push((entry, refused));
                Ok(None)
            }
            Ok(Err(refused)) => {
                self.refuse(refused, source, entry);
                Ok(None)
            }
            Err(stop) => self.noted(Err(stop), "a file", source, entry).map(|()| None),
        }
    }

    fn content(&mut self, kind: Kind, source: &dyn Source, entry: usize) -> Parsed<()> {
        let mut reader = Reader::new(source, entry);
        let reader = &mut reader;
        match kind {
            Kind::Safetensors => {
                let found = safetensors::check(reader)?;
                if found.names_code {
                    self.refuse(kind::LOADS_CODE, source, entry);
                }
                self.tensor_data.insert(entry, vec![found.data]);
                self.shards.add(path(source, entry), &found.names)?;
            }
            Kind::Gguf => {
                let found = gguf::check(reader)?;
                self.template(found.template, source, entry);
                self.tensor_data.insert(entry, vec![found.data]);
            }
            Kind::Onnx => {
                let found = onnx::check(reader)?;
                self.custom_operators(&found, source, entry);
                self.tensor_data.insert(entry, found.raw);
                let model = path(source, entry);
                if let Some(missing) = self.elsewhere.add(model, found.external, source)? {
                    self.missing(model, &missing);
                }
            }
            Kind::Json | Kind::Notebook => self.json(kind, source, entry)?,
            Kind::JsonLines => {
                text::check(reader)?;
                json::check_lines(&mut Reader::new(source, entry))?;
            }
            Kind::Template | Kind::Text => self.text(kind, source, entry)?,
            Kind::SentencePiece => protobuf::sentencepiece(reader)?,
            Kind::Png => image::png(reader)?,
            Kind::Jpeg => image::jpeg(reader)?,
            Kind::Webp => image::webp(reader)?,
            Kind::Npy => self.npy(source, entry)?,
            Kind::Zip => self.zip(source, entry)?,
            Kind::OnnxData | Kind::Empty => {}
        }
        Ok(())
    }

    fn template(&mut self, word: Option<&'static str>, source: &dyn Source, entry: usize) {
        if word.is_some() {
            let refused = Refused {
                what: "a chat template that reaches for Python's insides",
                why: "runs code where templates are not sandboxed",
                hint: "write the template without names such as `__class__` and `__globals__`",
            };
            self.refuse(refused, source, entry);
        }
    }

    fn custom_operators(&mut self, found: &onnx::Onnx, source: &dyn Source, entry: usize) {
        let Some((domain, name)) = found.custom.first() else {
            return;
        };
        let first = format!("{}::{}", shown(domain), shown(name));
        let path = path(source, entry);
        self.refused.add(Finding {
            why: format!(
                "`{}` is an ONNX model with {} operators of unknown domains, such as `{first}`, which need native code to run",
                shown(path),
                found.custom.len()
            ),
            file: path.to_owned(),
            what: "an ONNX model with custom operators".to_owned(),
            hint: "export it with the standard's operators only, or define the others as functions of the model".to_owned(),
        });
    }

    fn json(&mut self, kind: Kind, source: &dyn Source, entry: usize) -> Parsed<()> {
        text::check(&mut Reader::new(source, entry))?;
        let root = json::check(&mut Reader::new(source, entry))?;
        let name = path(source, entry).rsplit('/').next().unwrap_or_default();
        let is_object = kind == Kind::Notebook || OBJECTS.contains(&name);
        if is_object && root != json::Root::Object {
            return fault("must hold an object and holds another value");
        }
        if kind == Kind::Notebook {
            return Ok(());
        }
        let loads = json::loads(Reader::new(source, entry))?;
        self.template(loads.template, source, entry);
        if !loads.code.is_empty() {
            self.refuse(kind::LOADS_CODE, source, entry);
        }
        Ok(())
    }

    fn text(&mut self, kind: Kind, source: &dyn Source, entry: usize) -> Parsed<()> {
        text::check(&mut Reader::new(source, entry))?;
        let ending = kind::ending(path(source, entry));
        if matches!(ending.as_str(), "yaml" | "yml") {
            match yaml::check(&mut Reader::new(source, entry))? {
                yaml::Loads::Nothing => {}
                yaml::Loads::Keys => self.refuse(kind::LOADS_CODE, source, entry),
                yaml::Loads::Tags => self.refuse(kind::YAML_TAGS, source, entry),
            }
        }
        if kind == Kind::Template {
            let mut reader = Reader::new(source, entry);
            let size = reader.left();
            let template = String::from_utf8_lossy(&reader.bytes(size, 1024 * 1024)?).into_owned();
            self.template(template::climbs(&template), source, entry);
        }
        Ok(())
    }

    fn npy(&mut self, source: &dyn Source, entry: usize) -> Parsed<()> {
        let mut reader = Reader::new(source, entry);
        let array = npy::header(&mut reader)?;
        if array.has_objects {
            self.refuse(kind::OBJECTS, source, entry);
            return Ok(());
        }
        if array.bytes != reader.left() {
            return fault(format!(
                "has {} bytes of array where its header says {}",
                reader.left(),
                array.bytes
            ));
        }
        let data = reader.position()..reader.end();
        self.tensor_data.insert(entry, vec![data]);
        Ok(())
    }

    /// Of zip archives only NumPy's are allowed; of the others the directory says what they are.
    fn zip(&mut self, source: &dyn Source, entry: usize) -> Parsed<()> {
        let mut reader = Reader::new(source, entry);
        let members = match zip::members(&mut reader) {
            Ok(members) => members,
            Err(Stop::Fault(fault)) => {
                self.refuse(kind::ZIP, source, entry);
                return Err(Stop::Fault(fault));
            }
            Err(stop) => return Err(stop),
        };
        let ends = |ending: &str| members.iter().any(|member| kind::ending(&member.name) == ending);
        let refused = match () {
            () if ends("pkl") || ends("pickle") => Some(kind::TORCH),
            () if ends("class") || members.iter().any(|member| member.name == "META-INF/MANIFEST.MF") => {
                Some(kind::JAR)
            }
            () if ends("h5") || ends("keras") => Some(kind::KERAS),
            () if members.iter().all(|member| kind::ending(&member.name) == "npy") => None,
            () => Some(kind::ZIP),
        };
        if let Some(refused) = refused {
            self.refuse(refused, source, entry);
            return Ok(());
        }
        let archive = zip::npz(members, &mut reader)?;
        if !archive.objects.is_empty() {
            self.refuse(kind::OBJECTS, source, entry);
        }
        self.tensor_data.insert(entry, archive.data);
        Ok(())
    }

    fn missing(&mut self, model: &str, missing: &Missing) {
        self.refused.add(Finding {
            file: model.to_owned(),
            what: ELSEWHERE.to_owned(),
            why: format!(
                "`{}` is an ONNX model whose data is at `{}`, which is no file of this revision",
                shown(model),
                shown(&missing.0)
            ),
            hint: "publish the data beside the model, under a plain name".to_owned(),
        });
    }

    /// Unknown files that no ONNX model accounts for are refused.
    fn external_data(&mut self, source: &dyn Source) -> Result<()> {
        for (entry, refused) in std::mem::take(&mut self.unknown) {
            match self.elsewhere.vouched(entry, source) {
                None => self.refuse(refused, source, entry),
                Some(Err(refused)) => self.refuse(refused, source, entry),
                Some(Ok(Ok(()))) => {
                    // From its first byte on, so that it is scanned as a whole.
                    let size = source.entries().get(entry).map_or(0, |entry| entry.size);
                    self.tensor_data.insert(entry, std::iter::once(0..size).collect());
                }
                Some(Ok(Err(stop))) => {
                    self.refuse(refused, source, entry);
                    self.noted(Err(stop), Kind::OnnxData.name(), source, entry)?;
                }
            }
        }
        Ok(())
    }
}

/// JSON files that loaders take for objects.
const OBJECTS: [&str; 12] = [
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "adapter_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "model.safetensors.index.json",
    "chat_template.json",
];

fn path(source: &dyn Source, entry: usize) -> &str {
    source.entries().get(entry).map_or("", |entry| &entry.path)
}

pub(crate) fn finding(path: &str, what: &str, fault: &Fault) -> Finding {
    Finding {
        file: path.to_owned(),
        what: what.to_owned(),
        why: format!("`{}` is {what} that {}", shown(path), fault.why),
        hint: fault.hint.to_owned(),
    }
}

/// The kind of a file: as a pickle, which has the last word whatever else it looks like, then by its beginning.
fn sniff(source: &dyn Source, entry: usize) -> Parsed<std::result::Result<Kind, Refused>> {
    let mut reader = Reader::new(source, entry);
    let mut opcodes = 0;
    loop {
        let walk = pickle::walk(&mut reader, pickle::OPCODES_MAX - opcodes)?;
        // What follows a STOP in a pickle's own file is white space at most, or the next pickle: loaders of old PyTorch
        // files read three before the one that matters.
        let reached_end = reader.peek(64)?.iter().all(u8::is_ascii_whitespace) && reader.left() < 64;
        if walk.is_pickle(reached_end) {
            return Ok(Err(kind::PICKLE));
        }
        opcodes += walk.opcodes;
        if !walk.stopped {
            break;
        }
    }
    let mut reader = Reader::new(source, entry);
    let size = reader.left();
    Ok(kind::of(path(source, entry), size, reader.peek(HEAD)?))
}
