//! Files that once got past a check, each as it did.

use super::*;
use alephlab_verify::Source;

use crate::made::*;

fn passes(name: &str, content: impl Into<Vec<u8>>) {
    let report = one(name, content);
    for id in [CheckId::V3, CheckId::V4, CheckId::V6] {
        assert_eq!(findings(&report, id), [], "{name}");
    }
}

#[test]
fn a_walk_goes_on_wherever_an_unpickler_does() {
    // Each of these is taken by CPython's `pickle.loads` or `pickle._loads`, and calls what it imports.
    let harm = "0cos\ngetpid\n(tR.";
    let long = format!("V{}\n{harm}", "A".repeat(5000));
    let many = "I0x1\n0".repeat(100) + "cos\ngetpid\n(tR.";
    let memo = b"Vos\np0\n0Vgetpid\np1\n0g0\ng1\nq\xc2\x93)R.".to_vec();
    let mut streams: Vec<Vec<u8>> = [
        "(0cos\ngetpid\n(tR.",
        &format!("I0x1\n{harm}"),
        &format!("I 5 \n{harm}"),
        &format!("I1_0\n{harm}"),
        &format!("L0xfL\n{harm}"),
        &format!("Finfinity\n{harm}"),
        &format!("F-Nan\n{harm}"),
        &format!("Np 1\n{harm}"),
        &format!("Np1\n0g 1\n{harm}"),
        &long,
        &many,
        // Loaders of old files read one pickle after the other.
        &format!("I1\n.I2\n.(d.N{harm}"),
        "(ios\ngetpid\n.",
        "(ios\ngetpid",
    ]
    .into_iter()
    .map(|text| text.as_bytes().to_vec())
    .collect();
    streams.push(memo);
    streams.push([b"F1\0junk\n".to_vec(), harm.into()].concat());
    for stream in streams {
        for name in ["README.md", "vocab.txt", "LICENSE", "config.yaml"] {
            fails(name, stream.clone(), CheckId::V3, "is a Python pickle");
        }
    }
}

#[test]
fn text_of_people_is_no_pickle() {
    for text in [
        "cat\ndog\nbird\n",
        "Iceland\ncat\ndog\nbig\nRome\n",
        "Fine\ncut\nvenison\n",
        "I\n",
        "Let it be\n",
        "V\nN.\nB\n",
        "cos\nsin\ntan\n",
        "[PAD]\n[CLS]\ncos\nsys\n##er\n",
    ] {
        passes("vocab.txt", text);
    }
}

#[test]
fn a_pickle_is_seen_at_the_start_of_a_line_of_text() {
    let text = "# A card\n\ncos\nsystem\n(S'true'\ntR.\n\nEnd.\n";
    fails("notes.md", text, CheckId::V6, "a Python pickle");
}

/// The reasons of V3 and V4 of a model and the file that it names, of 64 bytes.
fn beside(name: &str, tensors: &[Vec<u8>], data: Vec<u8>) -> Vec<String> {
    let files = Memory::default()
        .with("m.onnx", onnx_of(&[], tensors))
        .with(name, data);
    let report = report(&files);
    let all = [CheckId::V3, CheckId::V4, CheckId::V6];
    all.iter()
        .flat_map(|id| findings(&report, *id))
        .map(|finding| finding.why.clone())
        .collect()
}

#[test]
fn a_model_vouches_only_for_bytes_that_are_its_tensors() {
    let data = || (0..64).map(|n| 0x80 | n).collect::<Vec<u8>>();
    let at = |name, offset, count| tensor(count, &[("location", name), ("offset", offset)]);
    for name in ["w.bin", "w.onnx_data", "onnx__MatMul_12"] {
        assert_eq!(beside(name, &[at(name, "0", 64)], data()), Vec::<String>::new());
        let halves = [at(name, "0", 32), at(name, "32", 32), at(name, "32", 32)];
        assert_eq!(beside(name, &halves, data()), Vec::<String>::new());
    }
    let padded = [data(), vec![0; 4000], data()].concat();
    let two = [at("w", "0", 64), at("w", "4064", 64)];
    assert_eq!(beside("w", &two, padded.clone()), Vec::<String>::new());
    let mut dirty = padded;
    dirty[100] = 1;
    let stated = |length| tensor(64, &[("location", "w"), ("length", length)]);
    let cases: [(&str, &[Vec<u8>], Vec<u8>, &str); 8] = [
        (
            "utils.pyc",
            &[at("utils.pyc", "0", 64)],
            data(),
            "an unknown binary",
        ),
        (
            "pytorch_model.bin",
            &[at("pytorch_model.bin", "0", 64)],
            data(),
            "an unknown binary",
        ),
        ("w", &[at("w", "0", 0)], data(), "an unknown binary"),
        ("w", &[at("w", "0", 32), at("w", "16", 48)], data(), "overlap"),
        ("w", &[stated("0")], data(), "of another length"),
        (
            "w",
            &[at("w", "0", 64)],
            [data(), vec![0; 70_000]].concat(),
            "accounts for",
        ),
        ("w", &two, dirty, "not zero"),
        ("w", &[at("w", "0", 65)], data(), "beyond the end"),
    ];
    for (name, tensors, data, words) in cases {
        let reasons = beside(name, tensors, data);
        assert!(
            reasons.iter().any(|why| why.contains(words)),
            "{name}: {reasons:?} have not {words:?}"
        );
    }
    // And what it vouches for is scanned as a whole.
    let mut hidden = data();
    hidden[20..32].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0");
    let reasons = beside("w", &[at("w", "0", 64)], hidden);
    assert!(
        reasons.iter().any(|why| why.contains("an ELF program")),
        "{reasons:?}"
    );
}

#[test]
fn operators_are_compared_whole() {
    // A function whose name is the operator's for 120 characters defines another operator.
    let long = "x".repeat(130);
    let function = [field(1, format!("{long}b").as_bytes()), field(10, b"own")].concat();
    let node = field(7, b"own");
    let mut model = onnx_of(&node, &[]);
    let graph = field(1, &[field(4, format!("{long}a").as_bytes()), node].concat());
    model.truncate(2 + 6);
    model.extend(field(7, &graph));
    // The tag of field 25 has two bytes.
    model.extend([0xca, 1]);
    model.extend(&field(1, &function)[1..]);
    fails("m.onnx", model, CheckId::V3, "operators of unknown domains");
}

#[test]
fn what_parsers_refuse_and_the_grammar_allows_hides_nothing() {
    for value in ["1e999", &"9".repeat(400), r#""\ud800""#] {
        let text = format!(r#"{{"a": {value}, "auto_map": {{"AutoModel": "x.Y"}}}}"#);
        fails("config.json", text, CheckId::V4, "that readers read differently");
    }
    for text in [
        r#"{"model": {"_target_": "os.system", "_args_": ["true"]}}"#,
        r#"{"auto_mapping": {"base_model_class": "X", "parent_library": "evil"}}"#,
    ] {
        fails("adapter_config.json", text, CheckId::V3, "names Python code");
    }
    passes(
        "adapter_config.json",
        r#"{"auto_mapping": {"base_model_class": "X", "parent_library": "transformers.models.x"}, "auto_map": null}"#,
    );
    passes("vocab.json", r#"{"auto_map": 1, "_target_": 2}"#);
    let header = r#"{"__metadata__":{"config":"{\"_target_\": \"os.system\"}"}}"#;
    fails(
        "m.safetensors",
        safetensors(header, 0),
        CheckId::V3,
        "names Python code",
    );
}

#[test]
fn yaml_has_no_tag_of_its_own() {
    for text in [
        "%TAG ! tag:yaml.org,2002:\n---\n!python/object/apply:os.getpid []",
        "a: !!%70ython/object/apply:os.getpid []\n",
        "a: !<tag:yaml.org,2002:python/object/apply:os.getpid> []\n",
        "a: !my x\n",
        "a: !!binary aGk=\n",
        "a: ! x\n",
    ] {
        fails("a.yaml", text, CheckId::V3, "tags of objects");
    }
    // PyYAML ends the comment at this character, and reads what follows.
    let separator = "# x\u{2028}a: !!%70ython/object/apply:os.getpid []\n";
    fails("a.yml", separator, CheckId::V4, "take differently");
    fails("a.yml", "a: [\n", CheckId::V4, "not valid YAML");
    fails(
        "a.yml",
        "model:\n  _target_: os.system\n",
        CheckId::V3,
        "names Python code",
    );
    passes(
        "a.yml",
        "%YAML 1.2\n---\na: !!str 1\nb: !!int \"2\"\nc: [1, {d: e}]\n---\nf: g\n",
    );
}

#[test]
fn templates_do_not_climb_by_another_spelling() {
    for text in [
        r#"{{ ""|attr("\x5f\x5fclass\x5f\x5f") }}"#,
        "{{ x[['__cla','ss__']|join] }}",
    ] {
        fails(
            "chat_template.jinja",
            text,
            CheckId::V3,
            "a chat template that reaches",
        );
        let json = format!(r#"{{"chat_template": {}}}"#, serde_json::Value::from(text));
        fails(
            "tokenizer_config.json",
            json,
            CheckId::V3,
            "a chat template that reaches",
        );
    }
}

#[test]
fn names_that_programs_run_are_no_text() {
    for name in [
        "Makefile",
        "Dockerfile",
        "a/SConstruct",
        "wscript",
        "Snakefile",
        "Rakefile",
        "Jenkinsfile",
        "CMakeLists.txt",
        ".vscode/tasks.json",
        ".devcontainer/devcontainer.json",
        ".github/workflows/a.yml",
        "package.json",
    ] {
        fails(name, "{}", CheckId::V3, "is a program's source");
    }
    passes(
        "verify.ipynb",
        r#"{"cells":[{"cell_type":"code","source":["1 + 1"]}]}"#,
    );
}

#[test]
fn headers_and_directory_of_an_archive_agree() {
    let array = npy("'<f4'", "(2,)", 8);
    let good = zip(&[("a.npy", &array)]);
    passes("a.npz", good.clone());
    // Flags, checksum, packed and plain size of the local header.
    for at in [7, 14, 18, 22] {
        let mut bad = good.clone();
        bad[at] ^= 2;
        fails("a.npz", bad, CheckId::V4, "of which directory and header differ");
    }
    let twice = zip(&[("a.npy", &array), ("a.npy", &array)]);
    fails("a.npz", twice, CheckId::V4, "the file `a.npy` twice");
}

/// A source that counts what is read of it.
struct Counted(Memory, std::sync::atomic::AtomicU64);

impl Source for Counted {
    fn entries(&self) -> &[alephlab_verify::Entry] {
        self.0.entries()
    }

    fn read(&self, entry: usize, offset: u64, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.0.read(entry, offset, buffer)?;
        self.1
            .fetch_add(count as u64, std::sync::atomic::Ordering::Relaxed);
        Ok(count)
    }
}

#[test]
fn no_file_makes_the_checks_read_it_over_and_over() {
    let jpeg = testdata("picture.jpeg");
    let scan = jpeg.windows(2).position(|pair| pair == b"\xff\xda").unwrap();
    let pixels = [&jpeg[..scan + 20], &b"\xff\0".repeat(500_000), b"\xff\xd9"].concat();
    let mut programs = vec![0; 64];
    programs[..2].copy_from_slice(b"MZ");
    programs[0x3c..0x40].copy_from_slice(&0xf_0000u32.to_le_bytes());
    let shard = testdata("model-00001-of-00002.safetensors");
    let index = r#"{"weight_map":{"a":"s.safetensors"}}"#;
    let mut indexes = Memory::default().with("s.safetensors", shard);
    for n in 0..200 {
        indexes = indexes.with(format!("{n}.safetensors.index.json"), index);
    }
    let one = |name: &str, content: Vec<u8>| Memory::default().with(name, content);
    for files in [
        one("a.jpeg", pixels),
        one(
            "a.png",
            [testdata("picture.png"), programs.repeat(30_000)].concat(),
        ),
        one("a.txt", b"PK\x05\x06".repeat(250_000)),
        one(
            "a.txt",
            [b"\x89PNG\r\n\x1a\n".to_vec(), b"\x80\x02V".repeat(300_000)].concat(),
        ),
        indexes,
    ] {
        let size: u64 = files.entries().iter().map(|entry| entry.size).sum();
        let counted = Counted(files, Default::default());
        let manifest = manifest_of(&counted).unwrap();
        verify(&counted, &manifest, &[&Signatures], &options()).unwrap();
        let read = counted.1.into_inner();
        assert!(read < 40 * size + (256 << 20), "{read} bytes read of {size}");
    }
}
