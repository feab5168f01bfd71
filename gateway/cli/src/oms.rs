//! `model.sig`: the signature of a model's files as the OpenSSF Model Signing format has it: a Sigstore bundle (v0.3) with a DSSE
//! envelope around an in-toto statement, signed by a P-256 key. Whose key that is, is [`crate::models`]' business.
//!
//! What is made here names every file with its SHA-256. What is accepted names files so, too: by whole files, not shards, and by
//! SHA-256; certificates, transparency logs and other curves are not looked at.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use p256::ecdsa::signature::{Signer as _, Verifier as _};
use p256::ecdsa::{DerSignature, SigningKey, VerifyingKey};
use p256::pkcs8::{DecodePublicKey as _, EncodePublicKey as _, LineEnding};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use alephlab_api::Problem;
use alephlab_api::model::{is_hex, is_path};

use crate::error::{CliError, Result};

/// The name that signatures have beside the files.
pub(crate) const FILE: &str = "model.sig";
/// The longest bundle that is read: one of 20,000 files is some 5 MB.
pub(crate) const BYTES_MAX: u64 = 32 << 20;
/// What lies beside a model's files, and tools that sign models leave out by themselves: neither signed nor missed.
const IGNORED: [&str; 4] = [".gitattributes", ".gitignore", ".github", ".git"];
/// Files that one names.
const FILES_MAX: usize = 20_000;

const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
const STATEMENT: &str = "https://in-toto.io/Statement/v1";
const PREDICATE: &str = "https://model_signing/signature/v1.0";

/// A path in a model and its SHA-256 in hex.
pub(crate) type Named = (String, String);

/// A public key as PEM: the text that a bundle's hint is the hash of.
pub(crate) fn pem(key: &VerifyingKey) -> Result<String> {
    let text = key.to_public_key_pem(LineEnding::LF);
    text.map_err(|error| refused(format!("a key cannot be written as PEM: {error}")))
}

/// The key of a PEM.
pub(crate) fn public_key(text: &str) -> Result<VerifyingKey> {
    VerifyingKey::from_public_key_pem(text).map_err(|_| CliError::Usage {
        message: "that is no public key of the curve P-256 in PEM".to_owned(),
        hint: "such a file begins with -----BEGIN PUBLIC KEY-----; other curves are not taken".to_owned(),
    })
}

/// Whether a path is left out of what is signed.
pub(crate) fn is_ignored(path: &str) -> bool {
    let first = path.split('/').next().unwrap_or(path);
    path == FILE || IGNORED.contains(&first)
}

/// What shows that who says so has this key.
pub(crate) fn prove(text: &str, key: &SigningKey) -> String {
    let signature: DerSignature = key.sign(text.as_bytes());
    BASE64.encode(signature.as_bytes())
}

/// Whether a key signed this text.
pub(crate) fn proves(text: &str, pem: &str, proof: &str) -> bool {
    let signature = BASE64
        .decode(proof)
        .ok()
        .and_then(|der| DerSignature::from_bytes(&der).ok());
    match (public_key(pem), signature) {
        (Ok(key), Some(signature)) => key.verify(text.as_bytes(), &signature).is_ok(),
        _ => false,
    }
}

/// Hash of a PEM, by which a bundle names its key.
pub(crate) fn hint(pem: &str) -> String {
    hex::encode(Sha256::digest(pem))
}

/// A bundle over files, sorted by path.
pub(crate) fn sign(name: &str, files: &[Named], key: &SigningKey) -> Result<Vec<u8>> {
    let mut root = Sha256::new();
    for (_, digest) in files {
        root.update(hex::decode(digest).map_err(|_| refused(format!("{digest} is no SHA-256")))?);
    }
    let resources: Vec<Value> = files
        .iter()
        .map(|(path, digest)| json!({ "name": path, "algorithm": "sha256", "digest": digest }))
        .collect();
    let ignored: Vec<&str> = [FILE].into_iter().chain(IGNORED).collect();
    let statement = json!({
        "_type": STATEMENT,
        "subject": [{ "name": name, "digest": { "sha256": hex::encode(root.finalize()) } }],
        "predicateType": PREDICATE,
        "predicate": {
            "serialization": {
                "method": "files", "hash_type": "sha256", "allow_symlinks": false, "ignore_paths": ignored,
            },
            "resources": resources,
        },
    });
    let payload = statement.to_string().into_bytes();
    let signature: DerSignature = key.sign(&enveloped(&payload));
    let bundle = json!({
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": { "publicKey": { "hint": hint(&pem(key.verifying_key())?) }, "tlogEntries": [] },
        "dsseEnvelope": {
            "payload": BASE64.encode(&payload),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{ "sig": BASE64.encode(signature.as_bytes()), "keyid": "" }],
        },
    });
    Ok(bundle.to_string().into_bytes())
}

/// The files that a bundle names, if one of these keys has signed it.
pub(crate) fn open(bundle: &[u8], keys: &[VerifyingKey]) -> Result<Vec<Named>> {
    let bundle: Value =
        serde_json::from_slice(bundle).map_err(|error| refused(format!("it is not JSON: {error}")))?;
    let envelope = &bundle["dsseEnvelope"];
    if bundle["mediaType"] != MEDIA_TYPE || envelope["payloadType"] != PAYLOAD_TYPE {
        return Err(refused(format!(
            "it is no bundle of the type {MEDIA_TYPE} over a statement"
        )));
    }
    let decoded = |value: &Value| value.as_str().and_then(|text| BASE64.decode(text).ok());
    let signatures = envelope["signatures"].as_array().map_or(&[][..], Vec::as_slice);
    let [signature] = signatures else {
        return Err(refused("it has more signatures than one, or none"));
    };
    let signature = decoded(&signature["sig"]).and_then(|der| DerSignature::from_bytes(&der).ok());
    let (Some(payload), Some(signature)) = (decoded(&envelope["payload"]), signature) else {
        return Err(refused("its statement or its signature is not readable"));
    };
    let text = enveloped(&payload);
    let has_signed = |key: &VerifyingKey| key.verify(&text, &signature).is_ok();
    let Some(key) = keys.iter().find(|key| has_signed(key)) else {
        return Err(unsigned());
    };
    // The hint is outside of what is signed: one that names another key is a bundle that was put together.
    let named = &bundle["verificationMaterial"]["publicKey"]["hint"];
    let own = hint(&pem(key)?);
    if named.as_str().is_some_and(|named| named != own) {
        return Err(refused("it names another key than the one that has signed it"));
    }
    statement(&payload)
}

/// The files of a statement whose signature holds.
fn statement(payload: &[u8]) -> Result<Vec<Named>> {
    let statement: Value = serde_json::from_slice(payload)
        .map_err(|error| refused(format!("its statement is not JSON: {error}")))?;
    if statement["_type"] != STATEMENT || statement["predicateType"] != PREDICATE {
        return Err(refused("its statement is not one of a model's files"));
    }
    let predicate = &statement["predicate"];
    let serialization = &predicate["serialization"];
    if serialization["method"] != "files" || serialization["hash_type"] != "sha256" {
        return Err(refused(
            "it names files by shards or by another hash than SHA-256",
        ));
    }
    let resources = predicate["resources"].as_array().map_or(&[][..], Vec::as_slice);
    if resources.is_empty() || resources.len() > FILES_MAX {
        return Err(refused(format!("it names no files, or more than {FILES_MAX}")));
    }
    let (mut files, mut root) = (Vec::new(), Sha256::new());
    for resource in resources {
        let (path, digest) = (resource["name"].as_str(), resource["digest"].as_str());
        let (Some(path), Some(digest)) = (path, digest.filter(|digest| is_hex(digest, 64))) else {
            return Err(refused("a file has no name or no SHA-256"));
        };
        if resource["algorithm"] != "sha256" || !is_path(path) {
            return Err(refused(format!(
                "it names {path:?} by another hash, or that is no path"
            )));
        }
        root.update(hex::decode(digest).unwrap_or_default());
        files.push((path.to_owned(), digest.to_owned()));
    }
    let subjects = statement["subject"].as_array().map_or(&[][..], Vec::as_slice);
    let is_whole = matches!(subjects, [one] if one["digest"]["sha256"] == hex::encode(root.finalize()));
    if !is_whole {
        return Err(refused("what it says of the whole is not what its files give"));
    }
    files.sort();
    match files.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        true => Err(refused("it names a file twice")),
        false => Ok(files),
    }
}

/// What is signed in place of a payload (DSSE's pre-authentication encoding).
fn enveloped(payload: &[u8]) -> Vec<u8> {
    let mut text = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len()).into_bytes();
    text.extend(payload);
    text
}

/// Whose key it was is not known here.
fn unsigned() -> CliError {
    let message = "the signature is refused: none of the keys that were given has signed it";
    CliError::Refused {
        problem: Problem::new("signature_foreign", message).with_hint(
            "name the account that published it with --by, or its key with --public-key; one that its owner has ended counts no more",
        ),
    }
}

fn refused(reason: impl Into<String>) -> CliError {
    CliError::Check {
        message: format!("the signature is refused: {}", reason.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_slice(&[seed; 32]).unwrap()
    }

    fn files() -> Vec<Named> {
        vec![
            ("README.md".to_owned(), "1".repeat(64)),
            ("sub/a.txt".to_owned(), "2".repeat(64)),
        ]
    }

    #[test]
    fn a_bundle_opens_by_the_key_that_made_it_and_by_no_other() {
        let keys = [*key(2).verifying_key(), *key(1).verifying_key()];
        let bundle = sign("m", &files(), &key(1)).unwrap();
        assert_eq!(open(&bundle, &keys).unwrap(), files());
        assert!(open(&bundle, &keys[..1]).is_err() && open(&bundle, &[]).is_err());
        let again = public_key(&pem(&keys[0]).unwrap()).unwrap();
        assert_eq!(again, keys[0]);
        assert!(public_key("x").is_err());
    }

    #[test]
    fn what_was_changed_is_refused() {
        let bundle = sign("m", &files(), &key(1)).unwrap();
        let keys = [*key(1).verifying_key()];
        let changed = |change: &dyn Fn(&mut Value)| {
            let mut value: Value = serde_json::from_slice(&bundle).unwrap();
            change(&mut value);
            open(&serde_json::to_vec(&value).unwrap(), &keys)
                .unwrap_err()
                .to_string()
        };
        let payload = |change: &dyn Fn(&mut Value)| {
            let mut statement: Value = serde_json::from_slice(&payload_of(&bundle)).unwrap();
            change(&mut statement);
            // As a signer with this key would have made it.
            let text = statement.to_string().into_bytes();
            let signature: DerSignature = key(1).sign(&enveloped(&text));
            changed(&|value| {
                value["dsseEnvelope"]["payload"] = BASE64.encode(&text).into();
                value["dsseEnvelope"]["signatures"][0]["sig"] = BASE64.encode(signature.as_bytes()).into();
            })
        };
        assert!(changed(&|value| value["mediaType"] = "x".into()).contains("no bundle"));
        assert!(
            changed(&|value| value["dsseEnvelope"]["payload"] = BASE64.encode("{}").into())
                .contains("none of the keys")
        );
        assert!(
            changed(&|value| value["verificationMaterial"]["publicKey"]["hint"] = "0".repeat(64).into())
                .contains("another key")
        );
        assert!(
            changed(&|value| value["dsseEnvelope"]["signatures"] = json!([])).contains("more signatures")
        );
        let resource = |key: &'static str, to: &'static str| {
            payload(&move |statement| statement["predicate"]["resources"][0][key] = to.into())
        };
        assert!(resource("name", "../x").contains("no path"));
        assert!(resource("algorithm", "blake2").contains("another hash"));
        assert!(
            payload(&|statement| statement["subject"][0]["digest"]["sha256"] = "0".into())
                .contains("of the whole")
        );
        assert!(
            payload(&|statement| statement["predicate"]["serialization"]["method"] = "shards".into())
                .contains("shards")
        );
        assert!(payload(&|statement| statement["predicateType"] = "x".into()).contains("not one of"));
    }

    fn payload_of(bundle: &[u8]) -> Vec<u8> {
        let value: Value = serde_json::from_slice(bundle).unwrap();
        BASE64
            .decode(value["dsseEnvelope"]["payload"].as_str().unwrap())
            .unwrap()
    }
}
