//! Files that were made to get something past the checks.

use super::*;
use crate::made::*;

#[test]
fn pickles_of_every_protocol_are_known_under_any_name() {
    for protocol in 0..=5 {
        for name in [
            "model.safetensors",
            "config.json",
            "vocab.txt",
            "picture.png",
            "weights",
            "README.md",
        ] {
            fails(
                name,
                pickle(protocol),
                CheckId::V3,
                &format!("`{name}` is a Python pickle"),
            );
        }
    }
    let hint = &one("a.bin", pickle(2)).check(CheckId::V3).unwrap().findings[0]
        .hint
        .clone();
    assert!(hint.contains("convert the weights to safetensors"), "{hint}");
}

#[test]
fn pickles_in_archives_are_known() {
    let evil = pickle(4);
    fails(
        "m.safetensors",
        zip(&[("archive/data.pkl", &evil)]),
        CheckId::V3,
        "is a PyTorch archive",
    );
    fails(
        "m.npz",
        zip(&[("a.npy", &evil)]),
        CheckId::V4,
        "is no NumPy array",
    );
    fails("m.zip", zip(&[("a.txt", b"a")]), CheckId::V3, "is a zip archive");
    let mut tar = vec![0; 1024];
    tar[257..262].copy_from_slice(b"ustar");
    fails("m.txt", tar, CheckId::V3, "is a tar archive");
    fails(
        "m.gz",
        b"\x1f\x8b\x08\0".to_vec(),
        CheckId::V3,
        "is a gzip archive",
    );
}

#[test]
fn programs_are_refused_by_content_and_sources_by_name() {
    let programs: [(&[u8], &str); 10] = [
        (b"\x7fELF\x02\x01\x01\0", "an ELF program"),
        (b"MZ\x90\0\x03\0", "a Windows program"),
        (b"\xcf\xfa\xed\xfe\x07\0\0\x01", "a Mach-O program"),
        (b"\xca\xfe\xba\xbe\0\0\0\x34", "a Java class"),
        (b"\0asm\x01\0\0\0", "a WebAssembly module"),
        (b"#!/bin/sh\ntrue\n", "a script"),
        (b"\x89HDF\r\n\x1a\n\0", "an HDF5 file"),
        (b"<?php system(1);", "a web page"),
        (b"<svg onload='x()'>", "a web page or SVG"),
        (b"\x01\x02\x03\x04", "an unknown binary format"),
    ];
    for (content, words) in programs {
        for name in ["model.safetensors", "README.md", "LICENSE"] {
            fails(name, content, CheckId::V3, words);
        }
    }
    for name in ["modeling_x.py", "setup.sh", "a/b.PY", "x.js", "site.pth"] {
        fails(name, b"print(1)\n".to_vec(), CheckId::V3, "is a program's source");
        fails(name, b"".to_vec(), CheckId::V3, "is a program's source");
    }
    fails(
        "x.zzz",
        b"text".to_vec(),
        CheckId::V3,
        "is text with an unknown ending",
    );
    fails(
        "app.jar",
        zip(&[("META-INF/MANIFEST.MF", b"a"), ("A.class", b"b")]),
        CheckId::V3,
        "is a Java archive",
    );
    fails(
        "m.keras",
        zip(&[("config.json", b"{}"), ("model.weights.h5", b"b")]),
        CheckId::V3,
        "is a Keras archive",
    );
}

#[test]
fn configurations_that_make_loaders_run_code_are_refused() {
    let nested = r#"{"text_config": {"\u0061uto_map": {"AutoModel": "x--modeling.X"}}}"#;
    fails("config.json", nested, CheckId::V3, "names Python code");
    let template = r#"{"chat_template": [{"name": "a", "template": "{{ ''.\u005f_class__.__mro__ }}"}]}"#;
    fails(
        "tokenizer_config.json",
        template,
        CheckId::V3,
        "a chat template that reaches",
    );
    fails(
        "chat_template.jinja",
        "{{ x['__cla' ~ 'ss__'] }}",
        CheckId::V3,
        "a chat template that reaches",
    );
    fails(
        "a.yaml",
        "a: !!python/object/apply:os.system [x]\n",
        CheckId::V3,
        "tags of objects",
    );
    let long = format!("{}a: !!python/name:x\n", "# some words here\n".repeat(8000));
    fails("a.yml", long, CheckId::V3, "tags of objects");
    assert!(reasons("a.json", r#"{"model": {"vocab": {"__class__": 1}}}"#, CheckId::V3).is_empty());
}

#[test]
fn safetensors_headers_must_account_for_every_byte() {
    let a = r#""a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}"#;
    let cases = [
        (
            format!("{{{a},\"b\":{{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[2,6]}}}}"),
            6,
            "overlaps",
        ),
        (
            format!("{{{a},\"b\":{{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[5,6]}}}}"),
            6,
            "a hole of 1 bytes",
        ),
        (format!("{{{a},{a}}}"), 4, "comes twice"),
        (format!("{{{a}}}"), 5, "goes on for 1 bytes"),
        (format!("{{{a}}}"), 3, "is cut off"),
        (
            r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[-1,4]}}"#.into(),
            4,
            "header that is not valid",
        ),
        (
            r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[4,0]}}"#.into(),
            4,
            "ends at 0, before",
        ),
        (
            r#"{"a":{"dtype":"F64","shape":[4294967296,4294967296],"data_offsets":[0,4]}}"#.into(),
            4,
            "no whole number",
        ),
        (
            r#"{"a":{"dtype":"OBJ","shape":[4],"data_offsets":[0,4]}}"#.into(),
            4,
            "no whole number",
        ),
        (
            r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,4]}}"#.into(),
            4,
            "need 16",
        ),
        (
            r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"x":1}}"#.into(),
            4,
            "not valid",
        ),
        (
            r#"{"__metadata__":{"a":"1","a":"2"}}"#.into(),
            0,
            "the name `a` comes twice",
        ),
        (r#"{"__metadata__":{"a":1}}"#.into(), 0, "not valid"),
        (
            format!("{{\"a\":{}1{}}}", "[".repeat(5000), "]".repeat(5000)),
            0,
            "not valid",
        ),
    ];
    for (header, data, words) in cases {
        fails("m.safetensors", safetensors(&header, data), CheckId::V4, words);
    }
    let mut giant = safetensors("{}", 0);
    giant[..8].copy_from_slice(&(1u64 << 62).to_le_bytes());
    fails("m.safetensors", giant, CheckId::V4, "more than the 25000000");
}

#[test]
fn an_index_must_agree_with_its_shards() {
    let shard = testdata("model-00001-of-00002.safetensors");
    let with = |index: &str| {
        let files = Memory::default().with("s.safetensors", shard.clone());
        let report = report(&files.with("model.safetensors.index.json", index));
        findings(&report, CheckId::V4)
            .iter()
            .map(|finding| finding.why.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        with(r#"{"weight_map":{"a":"s.safetensors"}}"#),
        Vec::<String>::new()
    );
    for (index, words) in [
        (r#"{"weight_map":{"b":"s.safetensors"}}"#, "and it has not"),
        (
            r#"{"weight_map":{"a":"../s.safetensors"}}"#,
            "which is no safetensors file",
        ),
        (
            r#"{"weight_map":{"a":"pytorch_model.bin"}}"#,
            "which is no safetensors file",
        ),
        (r#"{"weight_map":[]}"#, "has no `weight_map`"),
        ("[]", "must hold an object"),
    ] {
        let reasons = with(index);
        assert!(reasons.iter().any(|why| why.contains(words)), "{reasons:?}");
    }
}

#[test]
fn gguf_counts_and_offsets_are_not_believed() {
    let key =
        |kind: u32, value: &[u8]| [gguf_text("k"), kind.to_le_bytes().to_vec(), value.to_vec()].concat();
    let huge = (1u64 << 63).to_le_bytes();
    let array = |kind: u32| [kind.to_le_bytes().as_slice(), &huge].concat();
    let data = [0; 256];
    let tensor = |tensors: &[Vec<u8>]| {
        let mut bytes = gguf(tensors.len() as u64, 0, &tensors.concat());
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(data);
        bytes
    };
    let cases = [
        (gguf(1 << 63, 0, &[]), "announces"),
        (gguf(0, 1 << 63, &[]), "announces"),
        (gguf(0, 1, &huge), "where at most"),
        (gguf(0, 1, &key(8, &huge)), "has a text of"),
        (gguf(0, 1, &key(9, &array(8))), "has an array of"),
        (gguf(0, 1, &key(9, &array(4))), "has an array of"),
        (
            gguf(0, 1, &key(9, &9u32.to_le_bytes().repeat(40))),
            "has an array of",
        ),
        (gguf(0, 1, &key(99, &[])), "unknown type 99"),
        (gguf(0, 2, &key(4, &[0; 4]).repeat(2)), "has the name `k` twice"),
        (b"GGUF\0\0\0\x03".to_vec(), "big-endian"),
        (
            tensor(&[gguf_tensor("a", &[8], 0, 0), gguf_tensor("b", &[8], 0, 0)]),
            "overlap",
        ),
        (tensor(&[gguf_tensor("a", &[8], 0, 128)]), "a hole of 128"),
        (tensor(&[gguf_tensor("a", &[8], 0, 4)]), "is not aligned"),
        (tensor(&[gguf_tensor("a", &[8000], 0, 0)]), "is cut off"),
        (tensor(&[gguf_tensor("a", &[8], 0, 0)]), "goes on for"),
        (tensor(&[gguf_tensor("a", &[u64::MAX, 2], 0, 0)]), "give no size"),
        (
            tensor(&[gguf_tensor("a", &[8], 0, u64::MAX - 31)]),
            "give no size",
        ),
        (tensor(&[gguf_tensor("a", &[33], 8, 0)]), "give no size"),
        (tensor(&[gguf_tensor("a", &[1; 9], 0, 0)]), "of 9 dimensions"),
    ];
    for (content, words) in cases {
        fails("m.gguf", content, CheckId::V4, words);
    }
    let template = "{{ x.__class__ }}";
    let entry = [
        gguf_text("tokenizer.chat_template"),
        8u32.to_le_bytes().to_vec(),
        gguf_text(template),
    ]
    .concat();
    fails(
        "m.gguf",
        gguf(0, 1, &entry),
        CheckId::V3,
        "a chat template that reaches",
    );
}

#[test]
fn arrays_hold_numbers_of_the_stated_length() {
    fails("a.npy", npy("'|O'", "(1,)", 8), CheckId::V3, "Python objects");
    fails(
        "a.npy",
        npy("[('x', '|O')]", "(1,)", 8),
        CheckId::V3,
        "Python objects",
    );
    fails(
        "a.npy",
        npy("'<f4'", "(2,)", 9),
        CheckId::V4,
        "has 9 bytes of array",
    );
    fails(
        "a.npy",
        npy("__import__('os').system('x')", "(2,)", 8),
        CheckId::V4,
        "no Python dictionary",
    );
    fails(
        "a.npy",
        npy("'<f8'", "(4294967296, 4294967296)", 8),
        CheckId::V4,
        "no size",
    );
    let array = npy("'<f4'", "(2,)", 8);
    fails(
        "a.npz",
        zip(&[("a.npy", &npy("'|O'", "(1,)", 8))]),
        CheckId::V3,
        "Python objects",
    );
    let objects = npy("'|O'", "(1,)", 8);
    let packed = zip_of(&[("a.npy", 8, deflate(&objects), objects.len() as u32)]);
    fails("a.npz", packed, CheckId::V3, "Python objects");
    let mut prefixed = b"PK\x03\x04hidden".to_vec();
    prefixed.extend(zip(&[("a.npy", &array)]));
    fails("a.npz", prefixed, CheckId::V3, "is a zip archive");
    let mut appended = zip(&[("a.npy", &array)]);
    appended.extend(pickle(4));
    fails("a.npz", appended, CheckId::V4, "goes on after its end");
}

#[test]
fn a_zip_bomb_costs_little() {
    let zeros = npy("'|u1'", "(67108736,)", 67_108_736);
    let packed = deflate(&zeros);
    let bomb = zip_of(&[("a.npy", 8, packed.clone(), zeros.len() as u32)]);
    assert!(bomb.len() < 100_000);
    fails("a.npz", bomb, CheckId::V4, "unpacks `a.npy`");
    // One that understates its size is stopped there.
    fails(
        "a.npz",
        zip_of(&[("a.npy", 8, packed.clone(), 4096)]),
        CheckId::V4,
        "of another length",
    );
    // Entries that share their bytes.
    let mut shared = zip_of(&[("a.npy", 8, packed.clone(), 4096), ("a.npy", 8, packed, 4096)]);
    let directory = shared
        .windows(4)
        .rposition(|window| window == b"PK\x01\x02")
        .unwrap();
    shared[directory + 42..directory + 46].copy_from_slice(&0u32.to_le_bytes());
    assert!(!reasons("a.npz", shared, CheckId::V4).is_empty());
}

#[test]
fn onnx_models_stay_in_their_revision() {
    for location in [
        "../../etc/passwd",
        "/etc/passwd",
        "a/../../b",
        "C:\\x",
        "..\\x",
        "",
        "a\0b",
    ] {
        fails(
            "m.onnx",
            onnx("", &[("location", location)]),
            CheckId::V3,
            "which is no file of this revision",
        );
    }
    let beside = |offset: &str, length: &str| {
        let model = onnx(
            "",
            &[("location", "w.bin"), ("offset", offset), ("length", length)],
        );
        let report = report(
            &Memory::default()
                .with("d/m.onnx", model)
                .with("d/w.bin", vec![1; 64]),
        );
        findings(&report, CheckId::V4).len() + findings(&report, CheckId::V3).len()
    };
    assert_eq!(beside("0", "64"), 0);
    assert_ne!(beside("0", "65"), 0);
    assert_ne!(beside("18446744073709551615", "1"), 0);
    let twice = onnx("", &[("location", "a"), ("location", "../b")]);
    fails("m.onnx", twice, CheckId::V4, "twice");
    fails(
        "m.onnx",
        onnx("com.microsoft", &[]),
        CheckId::V3,
        "com.microsoft::MatMul",
    );
    let model = onnx("", &[("location", "w.bin")]);
    let files = Memory::default().with("m.onnx", model).with("w.bin", pickle(2));
    assert!(
        findings(&report(&files), CheckId::V3)[0]
            .why
            .contains("`w.bin` is a Python pickle")
    );
    // A graph in a graph in a graph.
    let mut graph = field(1, &field(4, b"Add"));
    for _ in 0..2000 {
        graph = field(1, &field(5, &field(6, &graph)));
    }
    fails(
        "m.onnx",
        [vec![0x08, 9], field(2, b"x"), field(7, &graph)].concat(),
        CheckId::V4,
        "too deep",
    );
}

#[test]
fn json_and_text_are_read_to_their_end() {
    fails("a.json", "[".repeat(100_000), CheckId::V4, "nested more than");
    for bad in [
        "{\"a\":1,}",
        "{'a':1}",
        "[1 2]",
        "{} {}",
        "[NaN]",
        "[01]",
        "\"a",
        "[1.]",
        "{\"a\"}",
        "\u{feff}{}",
        "[\"\\x\"]",
    ] {
        assert!(!reasons("a.json", bad, CheckId::V4).is_empty(), "{bad}");
    }
    for good in [
        "{}",
        "[]",
        "1",
        "\"\\u00e9\"",
        "[-0.5e+3, true, null, [[]], {\"a\": {}}]",
        " { \"a\" : [ ] } ",
    ] {
        assert_eq!(
            reasons("a.json", good, CheckId::V4),
            Vec::<String>::new(),
            "{good}"
        );
    }
    for object in [
        "config.json",
        "x/tokenizer.json",
        "verify.ipynb",
        "generation_config.json",
    ] {
        fails(object, "[]", CheckId::V4, "must hold an object");
    }
    fails("a.jsonl", "{}\n{", CheckId::V4, "is cut off");
    let late = [vec![b'a'; 70_000], b"\x1b[0m\x07".to_vec()].concat();
    fails("a.txt", late, CheckId::V4, "control character at byte 70000");
    let split = format!("{}é", "a".repeat(65_535));
    assert_eq!(reasons("a.txt", split.clone(), CheckId::V4), Vec::<String>::new());
    fails("a.txt", &split.as_bytes()[..65_536], CheckId::V4, "not UTF-8");
}

#[test]
fn nothing_hides_behind_or_inside_a_file() {
    let archive = zip(&[("archive/data.pkl", &pickle(2))]);
    let tensor = |data: &[u8], meta: &str| {
        let header = format!(
            r#"{{{meta}"a":{{"dtype":"U8","shape":[{0}],"data_offsets":[0,{0}]}}}}"#,
            data.len()
        );
        [safetensors(&header, 0), data.to_vec()].concat()
    };
    // In the tensors themselves: the file is valid, and archive readers would open it.
    let polyglot = tensor(&archive, "");
    assert_eq!(
        reasons("m.safetensors", polyglot.clone(), CheckId::V4),
        Vec::<String>::new()
    );
    fails(
        "m.safetensors",
        polyglot,
        CheckId::V6,
        "the directory of a zip archive",
    );
    for name in [
        "picture.png",
        "model.gguf",
        "model.safetensors",
        "array.npy",
        "README.md",
        "picture.webp",
    ] {
        fails(
            name,
            [testdata(name), archive.clone()].concat(),
            CheckId::V6,
            "the directory of a zip archive",
        );
        for protocol in [2, 4] {
            let appended = [testdata(name), vec![0; 40], pickle(protocol)].concat();
            fails(name, appended, CheckId::V6, "a Python pickle");
        }
    }
    let elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0".to_vec();
    fails(
        "picture.jpeg",
        [testdata("picture.jpeg"), elf].concat(),
        CheckId::V6,
        "an ELF program",
    );
    let mut chunk = testdata("picture.png");
    chunk.splice(
        33..33,
        [b"\0\0\0\x08teXt\0asm\x01\0\0\0".as_slice(), &[0; 4]].concat(),
    );
    assert_eq!(
        reasons("picture.png", chunk.clone(), CheckId::V4),
        Vec::<String>::new()
    );
    fails("picture.png", chunk, CheckId::V6, "a WebAssembly module");
    let padded = [vec![0x80, 2], b"N0".repeat(3000), pickle(2)[2..].to_vec()].concat();
    fails(
        "array.npy",
        [testdata("array.npy"), padded].concat(),
        CheckId::V6,
        "a Python pickle",
    );
    let dense = [testdata("array.npy"), b"\x80\x02".repeat(400_000)].concat();
    assert!(!reasons("array.npy", dense, CheckId::V6).is_empty());
    let mach = b"\xcf\xfa\xed\xfe\x07\0\0\x01\x03\0\0\0\x02\0\0\0".to_vec();
    fails(
        "picture.png",
        [testdata("picture.png"), mach].concat(),
        CheckId::V6,
        "a Mach-O program",
    );
}
