//! Files as clients make, save, move and delete them.

use serde_json::{Value, json};

use super::model::{Content, Format};
use super::*;

const ADA: &str = "0x00000000000000000000000000000000000000aD";

struct World {
    contents: Contents,
    files: Files,
    _folder: tempfile::TempDir,
}

fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let contents = Contents::new(folder.path().join("all"), None);
    World {
        files: contents.of(ADA).unwrap(),
        contents,
        _folder: folder,
    }
}

fn at(path: &str) -> Place {
    Place::parse(path).unwrap()
}

fn sent(body: Value) -> Sent {
    serde_json::from_value(body).unwrap()
}

fn whole() -> Asked {
    Asked {
        content: true,
        hash: true,
        ..Asked::default()
    }
}

fn text(model: &Model) -> &str {
    match &model.content {
        Some(Content::Text(text)) => text,
        other => panic!("not a text: {other:?}"),
    }
}

#[test]
fn saves_and_reads_notebooks_texts_and_bytes() {
    let World { files, _folder, .. } = world();
    let notebook = json!({ "cells": [], "metadata": { "b": 1, "a": 2 }, "nbformat": 4, "nbformat_minor": 5 });
    let body = sent(json!({ "type": "notebook", "format": "json", "content": notebook }));
    let (model, is_new) = files.save(&at("n.ipynb"), &body).unwrap();
    assert!(is_new && model.content.is_none() && model.kind == Kind::Notebook);
    let read = files.get(&at("n.ipynb"), &whole()).unwrap();
    assert_eq!(read.content, Some(Content::Notebook(notebook)));
    let on_disk = fs::read_to_string(files.file(&at("n.ipynb")).unwrap()).unwrap();
    assert!(
        on_disk.starts_with("{\n \"cells\": [],\n") && on_disk.ends_with("}\n"),
        "{on_disk}"
    );
    let body = sent(json!({ "type": "file", "format": "text", "content": "grüße\n" }));
    assert!(files.save(&at("t.md"), &body).unwrap().1 && !files.save(&at("t.md"), &body).unwrap().1);
    let read = files.get(&at("t.md"), &whole()).unwrap();
    assert_eq!(
        (text(&read), read.format, read.mimetype.as_deref()),
        ("grüße\n", Some(Format::Text), Some("text/markdown"))
    );
    assert_eq!(
        read.hash,
        Some(hex::encode(crate::store::sha256("grüße\n".as_bytes())))
    );
    let body = sent(json!({ "type": "file", "format": "base64", "content": "/wD+" }));
    files.save(&at("b.bin"), &body).unwrap();
    let read = files.get(&at("b.bin"), &whole()).unwrap();
    assert_eq!((text(&read), read.format), ("/wD+", Some(Format::Base64)));
    let as_text = Asked {
        format: Some(Format::Text),
        ..whole()
    };
    assert_eq!(files.get(&at("b.bin"), &as_text).unwrap_err().code(), "not_text");
}

#[test]
fn takes_a_large_file_in_pieces() {
    let World { files, _folder, .. } = world();
    for (chunk, content) in [(1, "YWI="), (2, "Y2Q="), (-1, "ZQ==")] {
        let body = json!({ "type": "file", "format": "base64", "content": content, "chunk": chunk });
        files.save(&at("large.txt"), &sent(body)).unwrap();
    }
    assert_eq!(text(&files.get(&at("large.txt"), &whole()).unwrap()), "abcde");
}

#[test]
fn finds_free_names() {
    let World { files, _folder, .. } = world();
    let new = |kind, extension| files.create(&at(""), kind, extension).unwrap().path;
    assert_eq!(
        [new(Kind::Notebook, ""), new(Kind::Notebook, "")],
        ["Untitled.ipynb", "Untitled1.ipynb"]
    );
    assert_eq!(
        [new(Kind::Directory, ""), new(Kind::Directory, "")],
        ["Untitled Folder", "Untitled Folder 1"]
    );
    assert_eq!(
        [
            new(Kind::File, ".py"),
            new(Kind::File, "txt"),
            new(Kind::File, "")
        ],
        ["untitled.py", "untitled.txt", "untitled"]
    );
    let copy = |from: &str| files.copy(&at("Untitled Folder"), &at(from)).unwrap().path;
    assert_eq!(copy("untitled.py"), "Untitled Folder/untitled-Copy1.py");
    assert_eq!(copy("untitled.py"), "Untitled Folder/untitled-Copy2.py");
    assert_eq!(
        copy("Untitled Folder/untitled-Copy1.py"),
        "Untitled Folder/untitled-Copy3.py"
    );
}

#[test]
fn renames_without_replacing_and_deletes_only_what_is_empty() {
    let World { files, _folder, .. } = world();
    for path in ["a.txt", "b.txt"] {
        files.save(&at(path), &Sent::text(path.to_owned())).unwrap();
    }
    assert_eq!(
        files.rename(&at("a.txt"), &at("b.txt")).unwrap_err().code(),
        "file_exists"
    );
    files.save(&at("folder"), &Sent::directory()).unwrap();
    assert_eq!(
        files.rename(&at("a.txt"), &at("folder/c.txt")).unwrap().path,
        "folder/c.txt"
    );
    assert_eq!(
        files.get(&at("a.txt"), &whole()).unwrap_err().code(),
        "file_unknown"
    );
    assert_eq!(
        files.delete(&at("folder")).unwrap_err().code(),
        "folder_not_empty"
    );
    files.make_checkpoint(&at("folder/c.txt")).unwrap();
    files.delete(&at("folder/c.txt")).unwrap();
    files.delete(&at("folder")).unwrap();
    assert_eq!(files.delete(&at("folder")).unwrap_err().code(), "file_unknown");
    assert!(files.delete(&at("")).is_err() && files.rename(&at(""), &at("x")).is_err());
    let Some(Content::Folder(left)) = files.get(&at(""), &whole()).unwrap().content else {
        panic!("a folder has a list")
    };
    assert_eq!(
        left.iter().map(|model| model.name.as_str()).collect::<Vec<_>>(),
        ["b.txt"]
    );
}

#[test]
fn a_checkpoint_brings_back_what_was() {
    let World { files, _folder, .. } = world();
    let place = at("n.txt");
    files.save(&place, &Sent::text("one".to_owned())).unwrap();
    assert!(files.checkpoints(&place).unwrap().is_empty());
    let made = files.make_checkpoint(&place).unwrap();
    files.save(&place, &Sent::text("two".to_owned())).unwrap();
    files.rename(&place, &at("m.txt")).unwrap();
    assert_eq!(files.checkpoints(&at("m.txt")).unwrap(), [made]);
    files.restore_checkpoint(&at("m.txt"), "checkpoint").unwrap();
    assert_eq!(text(&files.get(&at("m.txt"), &whole()).unwrap()), "one");
    assert!(files.restore_checkpoint(&at("m.txt"), "other").is_err());
    files.delete_checkpoint(&at("m.txt"), "checkpoint").unwrap();
    assert!(files.checkpoints(&at("m.txt")).unwrap().is_empty());
}

#[test]
fn says_what_is_wrong() {
    let World {
        files,
        contents,
        _folder,
    } = world();
    files.save(&at("folder"), &Sent::directory()).unwrap();
    files.save(&at("bad.ipynb"), &Sent::text("{".to_owned())).unwrap();
    let code = |result: Result<Model>| result.unwrap_err().code().to_owned();
    assert_eq!(code(files.get(&at("bad.ipynb"), &whole())), "notebook_unreadable");
    let as_file = Asked {
        kind: Some(Kind::File),
        ..whole()
    };
    assert_eq!(text(&files.get(&at("bad.ipynb"), &as_file).unwrap()), "{");
    assert_eq!(code(files.get(&at("folder"), &as_file)), "not_a_file");
    let save = |path: &str, body: Value| files.save(&at(path), &sent(body)).unwrap_err().code().to_owned();
    assert_eq!(save("x", json!({ "type": "file" })), "content_bad");
    assert_eq!(
        save("x", json!({ "type": "file", "format": "base64", "content": "?" })),
        "content_bad"
    );
    assert_eq!(
        save("x.ipynb", json!({ "type": "notebook", "content": {} })),
        "content_bad"
    );
    assert_eq!(
        save("folder", json!({ "type": "file", "content": "x" })),
        "not_a_file"
    );
    assert_eq!(
        save("none/x", json!({ "type": "file", "content": "x" })),
        "file_unknown"
    );
    assert_eq!(
        contents.working_folder(ADA, "folder/n.ipynb").unwrap(),
        format!("{}/folder", ADA.to_lowercase())
    );
    assert_eq!(contents.working_folder(ADA, "none/n.ipynb"), None);
}

/// The same with room for so many bytes.
fn narrow(limit: u64) -> World {
    let folder = tempfile::tempdir().unwrap();
    let contents = Contents::new(folder.path().join("all"), Some(limit));
    World {
        files: contents.of(ADA).unwrap(),
        contents,
        _folder: folder,
    }
}

fn of_size(bytes: usize) -> Sent {
    Sent::text("x".repeat(bytes))
}

#[test]
fn what_does_not_fit_is_refused_and_what_was_there_stays() {
    let World { files, _folder, .. } = narrow(1000);
    files.save(&at("a"), &of_size(600)).unwrap();
    for (name, bytes) in [("b", 401), ("a", 1001)] {
        let refused = files.save(&at(name), &of_size(bytes)).unwrap_err();
        assert_eq!(refused.code(), "storage_quota", "{name}");
    }
    assert!(files.get(&at("b"), &whole()).is_err());
    assert_eq!(text(&files.get(&at("a"), &whole()).unwrap()).len(), 600);
    // A checkpoint and a copy are files too, and so is each piece of an upload.
    assert_eq!(
        files.make_checkpoint(&at("a")).unwrap_err().code(),
        "storage_quota"
    );
    assert_eq!(files.copy(&at(""), &at("a")).unwrap_err().code(), "storage_quota");
    let piece = |chunk: i64, bytes: usize| {
        sent(json!({ "type": "file", "format": "text", "content": "x".repeat(bytes), "chunk": chunk }))
    };
    files.save(&at("c"), &piece(1, 300)).unwrap();
    assert_eq!(
        files.save(&at("c"), &piece(-1, 101)).unwrap_err().code(),
        "storage_quota"
    );
    files.save(&at("c"), &piece(-1, 100)).unwrap();
    assert_eq!(files.used(), 1000);
    // Neither less nor as much as before needs room.
    files.save(&at("a"), &of_size(600)).unwrap();
    files.save(&at("a"), &of_size(100)).unwrap();
    assert_eq!(files.used(), 500);
}

#[test]
fn what_is_deleted_gives_its_room_back_whoever_deletes_it() {
    let World { files, _folder, .. } = narrow(1000);
    files.save(&at("d"), &Sent::directory()).unwrap();
    files.save(&at("d/a"), &of_size(400)).unwrap();
    files.make_checkpoint(&at("d/a")).unwrap();
    assert_eq!(files.used(), 800);
    files.delete_checkpoint(&at("d/a"), "checkpoint").unwrap();
    assert_eq!(files.used(), 400);
    files.make_checkpoint(&at("d/a")).unwrap();
    files.delete(&at("d/a")).unwrap();
    assert_eq!(files.used(), 0, "with its checkpoint");
    files.save(&at("d/a"), &of_size(1000)).unwrap();
    // A cell deletes it: nobody tells, and it is found out before anything is refused.
    fs::remove_file(files.file(&at("d/a")).unwrap()).unwrap();
    files.save(&at("b"), &of_size(1000)).unwrap();
    assert_eq!(files.used(), 1000);
}

#[test]
fn an_account_without_a_folder_has_no_home_rather_than_that_of_all() {
    let World {
        contents,
        _folder: folder,
        ..
    } = world();
    assert_eq!(contents.home_of(ADA).unwrap(), ADA.to_lowercase());
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Contents::new(file, None).home_of(ADA).unwrap_err();
    assert_eq!(error.code(), "host_unavailable");
}

#[test]
fn links_take_no_room_and_each_account_has_its_own() {
    let World {
        files,
        contents,
        _folder,
    } = narrow(1000);
    files.save(&at("a"), &of_size(900)).unwrap();
    let target = files.file(&at("a")).unwrap();
    std::os::unix::fs::symlink(&target, target.with_file_name("link")).unwrap();
    let other = contents.of("0x00000000000000000000000000000000000000eE").unwrap();
    other.save(&at("a"), &of_size(1000)).unwrap();
    assert_eq!(room::bytes_below(target.parent().unwrap()), 900);
    assert_eq!((files.used(), other.used()), (900, 1000));
}
