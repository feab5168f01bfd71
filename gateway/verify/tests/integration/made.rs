//! Makers of hostile files.

use std::io::Write;

use flate2::Compression;
use flate2::write::DeflateEncoder;

/// A pickle that would call `os.system("true")`, by the opcodes of a protocol. It is never loaded.
pub(crate) fn pickle(protocol: u8) -> Vec<u8> {
    let mut bytes = if protocol >= 2 {
        vec![0x80, protocol]
    } else {
        vec![]
    };
    if protocol >= 4 {
        bytes.extend(b"\x8c\x02os\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R\x94.");
        let mut framed = bytes[..2].to_vec();
        framed.push(0x95);
        framed.extend(((bytes.len() - 2) as u64).to_le_bytes());
        framed.extend(&bytes[2..]);
        return framed;
    }
    bytes.extend(b"cos\nsystem\n(S'true'\ntR.");
    bytes
}

pub(crate) fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 7);
    bytes
}

/// A GGUF file of version 3 with these counts and what follows.
pub(crate) fn gguf(tensors: u64, keys: u64, rest: &[u8]) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(tensors.to_le_bytes());
    bytes.extend(keys.to_le_bytes());
    bytes.extend(rest);
    bytes
}

pub(crate) fn gguf_text(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

pub(crate) fn gguf_tensor(name: &str, shape: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut bytes = gguf_text(name);
    bytes.extend((shape.len() as u32).to_le_bytes());
    shape.iter().for_each(|size| bytes.extend(size.to_le_bytes()));
    bytes.extend(kind.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

pub(crate) fn npy(descr: &str, shape: &str, data: usize) -> Vec<u8> {
    let mut header = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}");
    while (header.len() + 11) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\0".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

/// A zip archive of (name, method, packed bytes, size).
pub(crate) fn zip_of(files: &[(&str, u16, Vec<u8>, u32)]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, method, packed, size) in files {
        let local = bytes.len() as u32;
        let mut shared = vec![20, 0, 0, 0];
        shared.extend(method.to_le_bytes());
        shared.extend([0; 8]);
        shared.extend((packed.len() as u32).to_le_bytes());
        shared.extend(size.to_le_bytes());
        shared.extend((name.len() as u16).to_le_bytes());
        shared.extend([0; 2]);
        bytes.extend(b"PK\x03\x04");
        bytes.extend(&shared);
        bytes.extend(name.as_bytes());
        bytes.extend(packed);
        directory.extend(b"PK\x01\x02\x14\0");
        directory.extend(&shared);
        directory.extend([0; 10]);
        directory.extend(local.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let start = bytes.len() as u32;
    bytes.extend(&directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend((files.len() as u16).to_le_bytes());
    bytes.extend((files.len() as u16).to_le_bytes());
    bytes.extend((directory.len() as u32).to_le_bytes());
    bytes.extend(start.to_le_bytes());
    bytes.extend([0; 2]);
    bytes
}

pub(crate) fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let stored: Vec<_> = files
        .iter()
        .map(|(name, content)| (*name, 0, content.to_vec(), content.len() as u32))
        .collect();
    zip_of(&stored)
}

pub(crate) fn deflate(content: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// A protobuf field of bytes.
pub(crate) fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut length = content.len();
    while length >= 0x80 {
        bytes.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend(content);
    bytes
}

/// A tensor of 8-bit numbers, so many, at these places.
pub(crate) fn tensor(count: u8, external: &[(&str, &str)]) -> Vec<u8> {
    let mut tensor = [vec![0x08, count, 0x10, 3], field(8, b"w")].concat();
    for (key, value) in external {
        tensor.extend(field(
            13,
            &[field(1, key.as_bytes()), field(2, value.as_bytes())].concat(),
        ));
    }
    tensor
}

/// An ONNX model with one node of this domain and one tensor of 64 bytes at this place.
pub(crate) fn onnx(domain: &str, external: &[(&str, &str)]) -> Vec<u8> {
    onnx_of(&field(7, domain.as_bytes()), &[tensor(64, external)])
}

/// An ONNX model with one node, of which this is a part, and these tensors.
pub(crate) fn onnx_of(node: &[u8], tensors: &[Vec<u8>]) -> Vec<u8> {
    let node = [field(4, b"MatMul"), node.to_vec()].concat();
    let mut graph = field(1, &node);
    tensors.iter().for_each(|tensor| graph.extend(field(5, tensor)));
    let mut bytes = vec![0x08, 9];
    bytes.extend(field(2, b"made"));
    bytes.extend(field(7, &graph));
    bytes
}
