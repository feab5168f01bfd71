//! Evidence that only a signer could make: everything is signed anew after it was changed, under a root of the tests' own.

use super::super::{Verified, examine_under, ratls};
use super::forge::{Forge, extension, json, statement, time};
use super::*;

/// [`super::super::verify`], with the tests' root in the place of AMD's.
fn verify(evidence: &Evidence, policy: &Policy) -> Result<Verified, AttestError> {
    examine_under(evidence, policy, |_| Ok(Forge::shared().anchor()))?.verified()
}

fn of_report(change: impl FnOnce(&mut Vec<u8>)) -> Result<Verified, AttestError> {
    let forge = Forge::shared();
    let evidence = forge.evidence(forge.vcek(|_| {}), forge.report(change));
    verify(&evidence, &forge.policy())
}

fn of_policy(policy: &Policy) -> Result<Verified, AttestError> {
    let forge = Forge::shared();
    verify(&forge.evidence(forge.vcek(|_| {}), forge.report(|_| {})), policy)
}

fn of_statement(statement: Statement) -> Result<Verified, AttestError> {
    let forge = Forge::shared();
    let evidence = Evidence {
        statement,
        ..forge.evidence(forge.vcek(|_| {}), forge.report(|_| {}))
    };
    verify(&evidence, &forge.policy())
}

#[test]
fn what_holds_gives_the_key_to_speak_with() {
    let forge = Forge::shared();
    let verified = of_report(|_| {}).expect("everything holds");
    assert_eq!(verified.public_key, forge.public_key());
    assert_eq!(vec![verified.measurement], forge.policy().measurements);
    assert_eq!(Some(verified.guest_policy), forge.policy().guest_policy);
    // with the built-in certificates, too, which are the tests' here
    let evidence = Evidence {
        ask: None,
        ark: None,
        ..forge.evidence(forge.vcek(|_| {}), forge.report(|_| {}))
    };
    assert!(verify(&evidence, &forge.policy()).is_ok());
}

#[test]
fn what_was_not_checked_is_refused() {
    let forge = Forge::shared();
    let without_measurements = Policy {
        measurements: Vec::new(),
        ..forge.policy()
    };
    let without_policy = Policy {
        guest_policy: None,
        ..forge.policy()
    };
    for policy in [without_measurements, without_policy] {
        let error = of_policy(&policy).expect_err("something is missing");
        assert!(matches!(error, AttestError::NotChecked { .. }), "{error}");
    }
    let evidence = Evidence {
        revocation_list: None,
        ..forge.evidence(forge.vcek(|_| {}), forge.report(|_| {}))
    };
    let error = verify(&evidence, &forge.policy()).expect_err("the list is missing");
    assert!(matches!(error, AttestError::NotChecked { .. }), "{error}");
}

#[test]
fn a_failure_is_told_before_what_is_missing() {
    let forge = Forge::shared();
    let evidence = Evidence {
        revocation_list: None,
        ..forge.evidence(forge.vcek(|_| {}), forge.report(|report| report[0x90] ^= 1))
    };
    assert_eq!(refused(verify(&evidence, &forge.policy())), "attest_measurement");
}

#[test]
fn guest_policies_that_expose_the_vm_are_refused_even_if_agreed() {
    let cases = [
        (0xB_0000, "attest_debug_allowed"),
        (0x7_0000, "attest_migration_allowed"),
        (0x1_0000, "attest_policy_form"),
        (0x0403_0000, "attest_policy_form"),
        (0x8000_0000_0003_0000, "attest_policy_form"),
        (0x2_0000, "attest_guest_policy"),
    ];
    let forge = Forge::shared();
    for (guest_policy, code) in cases {
        let report = forge.report(|report| report[8..16].copy_from_slice(&u64::to_le_bytes(guest_policy)));
        let evidence = forge.evidence(forge.vcek(|_| {}), report);
        assert_eq!(refused(verify(&evidence, &forge.policy())), code);
        let agreed = Policy {
            guest_policy: Some(guest_policy),
            ..forge.policy()
        };
        let result = verify(&evidence, &agreed);
        if code == "attest_guest_policy" {
            assert!(result.is_ok(), "{guest_policy:#x} exposes nothing");
        } else {
            assert_eq!(refused(result), code);
        }
    }
}

#[test]
fn less_privileged_programs_cannot_speak_for_the_vm() {
    let at = |level: u8| of_report(move |report| report[0x30] = level);
    assert!(at(0).is_ok());
    assert!(at(1).is_ok());
    for level in [2, 3, 255] {
        assert_eq!(refused(at(level)), "attest_vmpl");
    }
}

#[test]
fn reports_without_a_chips_own_signature_are_refused() {
    // algorithm, key of a cloud's owner, no key, signing turned off
    for (place, value) in [(0x34, 2), (0x48, 0b100), (0x48, 0b11100), (0x48, 0b10)] {
        let result = of_report(move |report| report[place] = value);
        assert_eq!(refused(result), "attest_signing_key", "{place:#x} {value:#b}");
    }
}

#[test]
fn each_of_the_four_firmware_versions_has_to_reach_the_floor() {
    // reported, which the chip's certificate repeats
    let forge = Forge::shared();
    let vcek = forge.vcek(|certificate| replace(certificate, "3.8", vec![2, 1, 83]));
    let evidence = forge.evidence(vcek, forge.report(|report| report[0x187] = 83));
    assert_eq!(refused(verify(&evidence, &forge.policy())), "attest_tcb_floor");
    // microcode of: current, committed, launch
    for place in [0x3F, 0x1E7, 0x1F7] {
        let result = of_report(move |report| report[place] = 83);
        assert_eq!(refused(result), "attest_tcb_floor", "{place:#x}");
    }
    let raised = |tcb: &str| Policy {
        floor: Floor::BuiltIn {
            raised: tcb.parse().expect("parts"),
        },
        ..Forge::shared().policy()
    };
    assert!(of_policy(&raised("bootloader=10,snp=25,microcode=84")).is_ok());
    for tcb in ["bootloader=11", "tee=1", "snp=26", "microcode=85", "fmc=1"] {
        assert_eq!(refused(of_policy(&raised(tcb))), "attest_tcb_floor", "{tcb}");
    }
    // The network's word cannot lower what is built in.
    let result = of_report(|report| report[0x3F] = 83);
    assert_eq!(refused(result), "attest_tcb_floor");
}

#[test]
fn firmware_that_claims_a_newer_version_has_no_key_for_it() {
    let forge = Forge::shared();
    let cases = [("3.1", 9), ("3.2", 1), ("3.3", 24), ("3.8", 0x53)];
    for (part, version) in cases {
        let vcek = forge.vcek(|certificate| replace(certificate, part, vec![2, 1, version]));
        let result = verify(&forge.evidence(vcek, forge.report(|_| {})), &forge.policy());
        assert_eq!(refused(result), "attest_reported_tcb", "{part}");
    }
}

#[test]
fn the_key_has_to_be_of_the_chip_that_the_report_names() {
    let chip = |report: &mut Vec<u8>| report[0x1A0] ^= 1;
    assert_eq!(refused(of_report(chip)), "attest_chip");
    let hidden = |report: &mut Vec<u8>| report[0x1A0..0x1E0].fill(0);
    assert_eq!(refused(of_report(hidden)), "attest_chip");
    let milan = |report: &mut Vec<u8>| report[0x189] = 1;
    assert_eq!(refused(of_report(milan)), "attest_chip");
    let unknown = |report: &mut Vec<u8>| report[0x188] = 0x17;
    assert_eq!(refused(of_report(unknown)), "attest_report_form");
}

#[test]
fn a_chips_certificate_without_its_extensions_is_refused() {
    let forge = Forge::shared();
    for part in ["3.1", "3.2", "3.3", "3.8", "4"] {
        let oid = extension(part, Vec::new()).extn_id;
        let without = forge.vcek(|certificate| {
            let extensions = certificate.extensions.as_mut().expect("some");
            extensions.retain(|extension| extension.extn_id != oid);
        });
        let twice = forge.vcek(|certificate| {
            let extensions = certificate.extensions.as_mut().expect("some");
            let again = extensions.iter().find(|extension| extension.extn_id == oid);
            let again = again.expect("it is there").clone();
            extensions.push(again);
        });
        for vcek in [without, twice] {
            let result = verify(&forge.evidence(vcek, forge.report(|_| {})), &forge.policy());
            assert_eq!(refused(result), "attest_unreadable", "{part}");
        }
    }
    let vcek = forge.vcek(|certificate| replace(certificate, "3.1", vec![2, 2, 1, 0]));
    let result = verify(&forge.evidence(vcek, forge.report(|_| {})), &forge.policy());
    assert_eq!(refused(result), "attest_unreadable");
}

#[test]
fn names_and_times_of_the_chain_count() {
    let forge = Forge::shared();
    let of_vcek = |vcek| verify(&forge.evidence(vcek, forge.report(|_| {})), &forge.policy());
    let named = |name: &'static str| {
        forge.vcek(move |certificate| certificate.subject = name.parse().expect("a name"))
    };
    assert_eq!(refused(of_vcek(named("CN=SEV-VLEK"))), "attest_chain");
    assert_eq!(refused(of_vcek(named("O=Nobody"))), "attest_chain");
    let by = |name: &'static str| {
        forge.vcek(move |certificate| certificate.issuer = name.parse().expect("a name"))
    };
    assert_eq!(refused(of_vcek(by("CN=SEV-Genoa,O=Somebody"))), "attest_chain");
    assert_eq!(
        refused(of_vcek(by("CN=SEV-VLEK-Genoa"))),
        "attest_unknown_product"
    );
    let until = |seconds| forge.vcek(move |certificate| certificate.validity.not_after = time(seconds));
    assert!(of_vcek(until(NOW)).is_ok());
    assert_eq!(refused(of_vcek(until(NOW - 1))), "attest_expired");
    let from = |seconds| forge.vcek(move |certificate| certificate.validity.not_before = time(seconds));
    assert!(of_vcek(from(NOW)).is_ok());
    assert_eq!(refused(of_vcek(from(NOW + 1))), "attest_not_yet_valid");
    let of_ask = |ask| {
        let evidence = Evidence {
            ask: Some(ask),
            ..forge.evidence(forge.vcek(|_| {}), forge.report(|_| {}))
        };
        verify(&evidence, &forge.policy())
    };
    assert!(of_ask(forge.ask(|_| {})).is_ok());
    assert_eq!(
        refused(of_ask(forge.ask(|ask| ask.validity.not_after = time(NOW - 1)))),
        "attest_expired"
    );
    assert_eq!(
        refused(of_ask(
            forge.ask(|ask| ask.subject = "CN=SEV-Milan".parse().expect("a name"))
        )),
        "attest_chain"
    );
}

#[test]
fn what_amd_has_revoked_is_refused() {
    let forge = Forge::shared();
    let under = |list| {
        let evidence = Evidence {
            revocation_list: Some(list),
            ..forge.evidence(forge.vcek(|_| {}), forge.report(|_| {}))
        };
        verify(&evidence, &forge.policy())
    };
    assert!(under(forge.list(&[], |_| {})).is_ok());
    assert!(under(forge.list(&[7, 9], |_| {})).is_ok());
    // The chip's certificate has number 0, as AMD's have; the line's has 2.
    assert_eq!(refused(under(forge.list(&[7, 0], |_| {}))), "attest_revoked");
    assert_eq!(refused(under(forge.list(&[2], |_| {}))), "attest_revoked");
    let open_ended = forge.list(&[], |list| list.next_update = None);
    assert_eq!(refused(under(open_ended)), "attest_expired");
    assert_eq!(refused(under(MILAN_LIST.to_vec())), "attest_list_signature");
}

#[test]
fn a_report_is_bound_to_the_tls_key() {
    let forge = Forge::shared();
    // of another key
    let result = of_report(|report| report[0x50..0x90].copy_from_slice(&ratls::bound(b"key", None)));
    assert_eq!(refused(result), "attest_key_binding");
    // with something behind the hash
    assert_eq!(
        refused(of_report(|report| report[0x8F] = 1)),
        "attest_key_binding"
    );
    // made for a nonce, not for the certificate
    let fresh = ratls::bound(&forge.public_key(), Some(b"".as_slice()));
    let result = of_report(move |report| report[0x50..0x90].copy_from_slice(&fresh));
    assert_eq!(refused(result), "attest_key_binding");
}

#[test]
fn an_answer_is_made_for_our_nonce_and_the_same_key() {
    let forge = Forge::shared();
    let nonce = b"sixteen bytes at least".to_vec();
    let answer_to = |nonce: &[u8], key: &[u8]| {
        let bound = ratls::bound(key, Some(nonce));
        json(&forge.report(|report| report[0x50..0x90].copy_from_slice(&bound))).into_bytes()
    };
    let of = |answer: Vec<u8>, nonce: &[u8]| {
        of_statement(Statement::Answer {
            certificate: forge.tls(&[]),
            answer,
            nonce: nonce.to_vec(),
        })
    };
    let verified = of(answer_to(&nonce, &forge.public_key()), &nonce).expect("everything holds");
    assert_eq!(verified.public_key, forge.public_key());
    let other = of(
        answer_to(b"another nonce of sixteen", &forge.public_key()),
        &nonce,
    );
    assert_eq!(refused(other), "attest_key_binding");
    assert_eq!(
        refused(of(answer_to(&nonce, b"key"), &nonce)),
        "attest_key_binding"
    );
    // what the certificate carries answers no nonce
    let old = json(&forge.report(|_| {})).into_bytes();
    assert_eq!(refused(of(old, &nonce)), "attest_key_binding");
    let guessed = of(answer_to(b"short", &forge.public_key()), b"short");
    assert!(matches!(guessed, Err(AttestError::NotChecked { .. })));
    assert_eq!(refused(of(b"{}".to_vec(), &nonce)), "attest_statement");
}

#[test]
fn a_certificate_carries_exactly_one_statement_that_can_be_read() {
    let forge = Forge::shared();
    let report = forge.report(|_| {});
    let whole = json(&report);
    let of = |statements: &[Vec<u8>]| of_statement(Statement::Certificate(forge.tls(statements)));
    assert!(of(&[statement(&whole)]).is_ok());
    assert_eq!(refused(of(&[])), "attest_no_statement");
    let twice = [statement(&whole), statement(&whole)];
    assert_eq!(refused(of(&twice)), "attest_several_statements");
    let malformed: [Vec<u8>; 9] = [
        Vec::new(),
        whole.clone().into_bytes(),
        [statement(&whole), vec![0]].concat(),
        statement(""),
        statement("[]"),
        statement(r#"{"tee_type":"sev-snp"}"#),
        statement(r#"{"tee_type":"sev-snp","data":"zz"}"#),
        statement(&format!("{whole}{whole}")),
        statement(&whole.replacen('{', r#"{"data":"00","#, 1)),
    ];
    for wrong in malformed {
        assert_eq!(refused(of(&[wrong])), "attest_statement");
    }
    for technology in ["tdx", "nvidia-cc", "none", "SEV-SNP", ""] {
        let text = whole.replace("sev-snp", technology);
        assert_eq!(refused(of(&[statement(&text)])), "attest_technology");
    }
    // What older guests write beside it says nothing, and is not read.
    let older = whole.replacen('{', r#"{"measurement":"00","report_data":"00","#, 1);
    assert!(of(&[statement(&older)]).is_ok());
    let none = of_statement(Statement::Certificate(b"no certificate".to_vec()));
    assert_eq!(refused(none), "attest_certificate");
    let mut longer = forge.tls(&[statement(&whole)]);
    longer.push(0);
    assert_eq!(
        refused(of_statement(Statement::Certificate(longer))),
        "attest_certificate"
    );
}

#[test]
fn a_long_name_of_a_technology_is_cut() {
    let text = format!(r#"{{"tee_type":"{}","data":""}}"#, "x".repeat(100_000));
    let forge = Forge::shared();
    let result = of_statement(Statement::Certificate(forge.tls(&[statement(&text)])));
    let error = result.expect_err("it is unknown");
    assert!(error.to_string().len() < 200);
}

/// Puts another value into one of AMD's extensions.
fn replace(certificate: &mut x509_cert::TbsCertificate, part: &str, value: Vec<u8>) {
    let new = extension(part, value);
    let extensions = certificate.extensions.as_mut().expect("some");
    let old = extensions.iter_mut().find(|old| old.extn_id == new.extn_id);
    *old.expect("it is there") = new;
}
