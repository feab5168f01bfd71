//! Looks at every file once: what it is (V3), whether it is well formed (V4), and where its tensor data is (for V6).
//!
//! Formats are parsed in [`crate::formats`]; here it is decided what a parser's answer means for a revision.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use crate::error::Result;
use crate::formats::{gguf, image, json, npy, onnx, pickle, protobuf, safetensors, text, zip};
use crate::kind::{self, Kind, Refused};
use crate::reader::{Fault, Parsed, Reader, Stop, fault, shown};
use crate::report::Finding;
use crate::source::{EntryKind, Source};

/// Bytes by which a file is known.
const HEAD: usize = 4096;
/// Longest index of a sharded model; it is kept while it is compared.
const INDEX_MAX: u64 = 4 * 1024 * 1024;

/// Where the bytes of tensors are, by number of the entry. Chance writes everything there, so scanners leave it out.
pub type TensorData = BTreeMap<usize, Vec<Range<u64>>>;

/// What all files are.
#[derive(Default)]
pub(crate) struct Inspected {
    /// Findings of V3.
    pub(crate) refused: Vec<Finding>,
    /// Findings of V4.
    pub(crate) faults: Vec<Finding>,
    pub(crate) tensor_data: TensorData,
    kinds: Vec<Option<Kind>>,
    /// Parts of other files that ONNX models point to.
    external: Vec<(usize, onnx::External)>,
    /// Files that may yet be such parts.
    unknown: Vec<(usize, Refused)>,
}

/// Inspects every entry.
pub(crate) fn all(source: &dyn Source) -> Result<Inspected> {
    let mut all = Inspected::default();
    for entry in 0..source.entries().len() {
        let kind = all.known(source, entry)?;
        all.kinds.push(kind);
        if let Some(kind) = kind {
            let outcome = all.content(kind, source, entry);
            all.noted(outcome, kind.name(), source, entry)?;
        }
    }
    all.external_data(source);
    all.indexes(source)?;
    Ok(all)
}

impl Inspected {
    fn refuse(&mut self, refused: Refused, source: &dyn Source, entry: usize) {
        let path = path(source, entry);
        let (what, why) = (refused.what, refused.why);
        self.refused.push(Finding {
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
                self.faults.push(finding(path, what, &fault));
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
                let data = safetensors::check(reader)?.data;
                self.tensor_data.insert(entry, vec![data]);
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
                self.external
                    .extend(found.external.into_iter().map(|part| (entry, part)));
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
        let Some(first) = found.custom.first() else { return };
        let path = path(source, entry);
        self.refused.push(Finding {
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
        let loads = json::loads(Reader::new(source, entry));
        self.template(loads.template, source, entry);
        if !loads.code.is_empty() {
            let refused = Refused {
                what: "a configuration that names Python code",
                why: "makes loaders fetch and run it (`auto_map`, `custom_pipelines`)",
                hint: "remove that key, so that the model loads with classes of its library alone",
            };
            self.refuse(refused, source, entry);
        }
        Ok(())
    }

    fn text(&mut self, kind: Kind, source: &dyn Source, entry: usize) -> Parsed<()> {
        text::check(&mut Reader::new(source, entry))?;
        let ending = kind::ending(path(source, entry));
        if matches!(ending.as_str(), "yaml" | "yml") {
            let tags: [&[u8]; 2] = [b"!!python", b"yaml.org,2002:python"];
            if contains(&mut Reader::new(source, entry), &tags)? {
                let refused = Refused {
                    what: "YAML with tags of Python objects",
                    why: "makes loaders run code",
                    hint: "write plain YAML, without `!!python` tags",
                };
                self.refuse(refused, source, entry);
            }
        }
        if kind == Kind::Template {
            let mut reader = Reader::new(source, entry);
            let size = reader.left();
            let template = String::from_utf8_lossy(&reader.bytes(size, 1024 * 1024)?).into_owned();
            self.template(json::template_word(&template), source, entry);
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

    /// Follows what ONNX models point to. Unknown files that none points to are refused.
    fn external_data(&mut self, source: &dyn Source) {
        let entries = source.entries();
        let files = entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.kind == EntryKind::File);
        let by_path: HashMap<&str, usize> = files
            .map(|(number, entry)| (entry.path.as_str(), number))
            .collect();
        let mut parts: TensorData = TensorData::new();
        for (model, part) in std::mem::take(&mut self.external) {
            let model_path = path(source, model);
            let target =
                beside(model_path, &part.location).and_then(|target| by_path.get(target.as_str()).copied());
            let location = shown(&part.location);
            let Some(target) = target else {
                self.refused.push(Finding {
                    file: model_path.to_owned(),
                    what: "an ONNX model with data elsewhere".to_owned(),
                    why: format!(
                        "`{}` is an ONNX model whose data is at `{location}`, which is no file of this revision",
                        shown(model_path)
                    ),
                    hint: "publish the data beside the model, under a plain name".to_owned(),
                });
                continue;
            };
            let size = entries.get(target).map_or(0, |entry| entry.size);
            let end = part
                .offset
                .checked_add(part.length.unwrap_or_else(|| size.saturating_sub(part.offset)));
            match end.filter(|end| *end <= size && part.offset <= size) {
                Some(end) => parts.entry(target).or_default().push(part.offset..end),
                None => {
                    let fault = Fault {
                        why: format!("points beyond the end of `{location}`"),
                        hint: "export the model and its data again, together",
                    };
                    self.faults.push(finding(model_path, Kind::Onnx.name(), &fault));
                }
            }
        }
        for (entry, refused) in std::mem::take(&mut self.unknown) {
            match parts.remove(&entry) {
                Some(ranges) => {
                    self.tensor_data.insert(entry, ranges);
                    if let Some(kind) = self.kinds.get_mut(entry) {
                        *kind = Some(Kind::OnnxData);
                    }
                }
                None => self.refuse(refused, source, entry),
            }
        }
    }

    /// Compares each `*.index.json` with the files that it names.
    fn indexes(&mut self, source: &dyn Source) -> Result<()> {
        for entry in 0..source.entries().len() {
            let is_index = path(source, entry).ends_with(".safetensors.index.json");
            if is_index && self.kinds.get(entry) == Some(&Some(Kind::Json)) {
                let outcome = self.index(source, entry);
                self.noted(outcome, "an index of shards", source, entry)?;
            }
        }
        Ok(())
    }

    fn index(&self, source: &dyn Source, entry: usize) -> Parsed<()> {
        let mut reader = Reader::new(source, entry);
        let size = reader.left();
        let bytes = reader.bytes(size, INDEX_MAX)?;
        let Ok(index) = serde_json::from_slice::<safetensors::Index>(&bytes) else {
            return fault("has no `weight_map` of texts");
        };
        let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (tensor, file) in &index.weight_map {
            shards.entry(file).or_default().push(tensor);
        }
        for (file, tensors) in shards {
            let shard = beside(path(source, entry), file)
                .and_then(|target| source.entries().iter().position(|entry| entry.path == target))
                .filter(|shard| self.kinds.get(*shard) == Some(&Some(Kind::Safetensors)));
            let Some(shard) = shard else {
                return fault(format!(
                    "names `{}`, which is no safetensors file of this revision",
                    shown(file)
                ));
            };
            // A shard that is malformed has its own finding.
            let Ok(content) = safetensors::check(&mut Reader::new(source, shard)) else {
                continue;
            };
            let names: HashSet<&str> = content.names.iter().map(String::as_str).collect();
            if let Some(missing) = tensors.iter().find(|tensor| !names.contains(**tensor)) {
                return fault(format!(
                    "says that `{}` has the tensor `{}`, and it has not",
                    shown(file),
                    shown(missing)
                ));
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
    let walk = pickle::walk(&mut reader, pickle::OPCODES_MAX)?;
    // What follows a STOP in a pickle's own file is white space at most, or the next pickle.
    let reached_end = reader.peek(64)?.iter().all(u8::is_ascii_whitespace) && reader.left() < 64;
    if walk.is_pickle(reached_end) {
        return Ok(Err(kind::PICKLE));
    }
    let mut reader = Reader::new(source, entry);
    let size = reader.left();
    Ok(kind::of(path(source, entry), size, reader.peek(HEAD)?))
}

/// The path of `location` as seen from the folder of `path`; none when it leads out of it.
fn beside(path: &str, location: &str) -> Option<String> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let location = location.strip_prefix("./").unwrap_or(location);
    if !alephlab_api::model::is_path(location) || location.contains(':') {
        return None;
    }
    Some(if folder.is_empty() {
        location.to_owned()
    } else {
        format!("{folder}/{location}")
    })
}

/// Whether one of some short words is anywhere in a file.
fn contains(reader: &mut Reader<'_>, words: &[&[u8]]) -> Parsed<bool> {
    let longest = words.iter().map(|word| word.len()).max().unwrap_or(1) as u64;
    loop {
        let chunk = reader.chunk()?;
        let found = words
            .iter()
            .any(|word| chunk.windows(word.len()).any(|window| window == *word));
        if found || reader.left() == 0 {
            return Ok(found);
        }
        let again = reader.position() - (longest - 1);
        reader.seek(again)?;
    }
}
