//! Files as libraries write them pass, together and one by one; and what is refused of what libraries write.

use super::*;

/// Everything in `testdata` that may be in a revision.
pub(crate) const GOOD: [&str; 25] = [
    "LICENSE",
    "README.md",
    "array.npy",
    "config.json",
    "deflated.npz",
    "external.onnx",
    "external.onnx_data",
    "fields.npy",
    "merges.txt",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.gguf",
    "model.onnx",
    "model.safetensors",
    "model.safetensors.index.json",
    "picture.jpeg",
    "picture.png",
    "picture.webp",
    "progressive.jpg",
    "stored.npz",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "verify.ipynb",
    "vocab.txt",
];

pub(crate) fn whole() -> Memory {
    GOOD.into_iter()
        .fold(Memory::default(), |files, name| files.with(name, testdata(name)))
}

#[test]
fn a_revision_of_real_files_passes_every_check_that_is_made_here() {
    let report = report(&whole());
    for id in [CheckId::V1, CheckId::V3, CheckId::V4, CheckId::V6, CheckId::V7] {
        let check = report.check(id).unwrap();
        assert_eq!(check.outcome, Outcome::Passed, "{check:#?}");
    }
    assert!(!report.verified, "V2 and V5 were not run");
}

#[test]
fn what_libraries_write_and_is_refused_says_what_it_is() {
    for protocol in 0..=5 {
        let name = format!("value{protocol}.pickle");
        fails(
            "model.safetensors",
            testdata(&name),
            CheckId::V3,
            "`model.safetensors` is a Python pickle, which",
        );
    }
    fails(
        "torch_old.pt",
        testdata("torch_old.pt"),
        CheckId::V3,
        "is a Python pickle",
    );
    fails(
        "torch_zip.pt",
        testdata("torch_zip.pt"),
        CheckId::V3,
        "is a PyTorch archive with a pickle in it",
    );
    fails(
        "a.npy",
        testdata("objects.npy"),
        CheckId::V3,
        "is a NumPy file with Python objects",
    );
    fails(
        "a.npz",
        testdata("objects.npz"),
        CheckId::V3,
        "is a NumPy file with Python objects",
    );
    fails(
        "m.onnx",
        testdata("custom.onnx"),
        CheckId::V3,
        "such as `com.example::FusedThing`",
    );
}

#[test]
fn data_of_an_onnx_model_is_known_only_through_it() {
    let data = testdata("external.onnx_data");
    fails(
        "external.onnx_data",
        data,
        CheckId::V3,
        "is of an unknown binary format",
    );
    fails(
        "external.onnx",
        testdata("external.onnx"),
        CheckId::V3,
        "which is no file of this revision",
    );
}

#[test]
fn every_cut_of_a_real_file_is_refused() {
    for name in GOOD {
        let content = testdata(name);
        let is_text = matches!(
            name,
            "LICENSE" | "merges.txt" | "vocab.txt" | "external.onnx_data" | "README.md"
        );
        // Messages of protobuf may end after any field; the others say how long they are.
        if is_text || name == "tokenizer.model" {
            continue;
        }
        // The padding after GGUF's last tensor may be missing.
        let last = if name == "model.gguf" { 32 } else { 1 };
        for end in [1, content.len() / 2, content.len() - last] {
            let report = one(name, &content[..end]);
            let faults = findings(&report, CheckId::V3).len() + findings(&report, CheckId::V4).len();
            assert!(faults > 0, "{name} cut at {end} passes");
        }
    }
}
