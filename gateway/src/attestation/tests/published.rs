//! What real chips signed: it holds, and any change to it, to its certificates or to the root is refused.

use sev::certs::snp::{Certificate as SevCertificate, builtin};
use sha2::{Digest, Sha384};
use x509_cert::der::Encode;

use super::super::{Product, chain, examine, verify};
use super::forge::Forge;
use super::*;

fn der(certificate: std::io::Result<SevCertificate>) -> Vec<u8> {
    let certificate = certificate.expect("sev brings it");
    certificate.to_der().expect("it has a form")
}

#[test]
fn reports_of_all_three_lines_hold() {
    for published in [MILAN_V2, MILAN_V3, GENOA_V5, TURIN_V5] {
        let found = examine(&published.evidence(), &published.policy_of_any_age()).expect("it can be read");
        assert_eq!(failures(&found), Vec::<&str>::new());
        // All but what it is bound to, and the list, were checked and hold.
        let holding = found
            .findings
            .iter()
            .filter(|finding| matches!(finding.outcome, Outcome::Holds(_)));
        assert_eq!(holding.count(), found.findings.len() - 2);
    }
}

#[test]
fn a_report_alone_releases_nothing() {
    let error = verify(&GENOA_V5.evidence(), &GENOA_V5.policy()).expect_err("nobody is bound to it");
    assert!(matches!(error, AttestError::NotChecked { .. }), "{error}");
}

#[test]
fn the_built_in_firmware_is_asked_for() {
    let of = |published: Published| {
        let found = examine(&published.evidence(), &published.policy()).expect("it can be read");
        failed(&found, "least firmware")
    };
    assert_eq!(of(MILAN_V3), None);
    assert_eq!(of(GENOA_V5), None);
    assert_eq!(of(MILAN_V2), Some("attest_tcb_floor"));
    assert_eq!(of(TURIN_V5), Some("attest_tcb_floor"));
}

#[test]
fn a_vm_that_may_be_debugged_is_refused_even_if_that_was_agreed() {
    let policy = MILAN_V2_DEBUG.policy_of_any_age();
    let found = examine(&MILAN_V2_DEBUG.evidence(), &policy).expect("it can be read");
    assert_eq!(failures(&found), ["attest_debug_allowed"]);
}

#[test]
fn no_byte_of_a_report_can_be_changed() {
    for published in [MILAN_V2, GENOA_V5, TURIN_V5] {
        let policy = published.policy_of_any_age();
        for place in 0..published.report.len() {
            let mut report = published.report.to_vec();
            report[place] ^= 1 << (place % 8);
            refused(verify(&published.with_report(&report), &policy));
        }
    }
}

#[test]
fn a_change_of_what_is_signed_is_seen_by_the_signature() {
    let regions = [
        ("guest policy", 0x0A),
        ("image id", 0x25),
        ("privilege level", 0x30),
        ("platform", 0x40),
        ("report data", 0x50),
        ("measurement", 0x90),
        ("host data", 0xC0),
        ("firmware", 0x187),
        ("chip", 0x1A3),
        ("launch firmware", 0x1F7),
        ("signature, first half", 0x2A0),
        ("signature, second half", 0x2E8),
    ];
    for (name, place) in regions {
        let mut report = GENOA_V5.report.to_vec();
        report[place] ^= 1;
        let found = examine(&GENOA_V5.with_report(&report), &GENOA_V5.policy());
        let found = found.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(failed(&found, "signature"), Some("attest_signature"), "{name}");
    }
}

#[test]
fn a_report_has_one_length_and_a_known_version() {
    for bytes in [0, 3, 1183, 1185, 2368] {
        let mut report = GENOA_V5.report.to_vec();
        report.resize(bytes, 0);
        let found = examine(&GENOA_V5.with_report(&report), &GENOA_V5.policy());
        assert_eq!(refused(found), "attest_report_length");
    }
    for version in [0, 1, 6, 0x0100_0005] {
        let mut report = GENOA_V5.report.to_vec();
        report[..4].copy_from_slice(&u32::to_le_bytes(version));
        let found = examine(&GENOA_V5.with_report(&report), &GENOA_V5.policy());
        assert_eq!(refused(found), "attest_report_version");
    }
}

#[test]
fn bytes_that_the_signature_does_not_cover_are_zero() {
    for place in [0x2A0 + 48, 0x2A0 + 71, 0x2A0 + 72 + 48, 0x2A0 + 144, 1183] {
        let mut report = GENOA_V5.report.to_vec();
        report[place] = 1;
        let found = examine(&GENOA_V5.with_report(&report), &GENOA_V5.policy());
        assert_eq!(refused(found), "attest_report_form", "{place:#x}");
    }
}

#[test]
fn another_chips_key_is_refused() {
    let evidence = Evidence {
        vcek: MILAN_V3.vcek.to_vec(),
        ..MILAN_V2.evidence()
    };
    let found = examine(&evidence, &MILAN_V2.policy_of_any_age()).expect("it can be read");
    let expected = ["attest_signature", "attest_chip", "attest_reported_tcb"];
    assert_eq!(failures(&found), expected);
    // and a key of another line
    let evidence = Evidence {
        vcek: GENOA_V5.vcek.to_vec(),
        ..MILAN_V3.evidence()
    };
    let found = examine(&evidence, &MILAN_V3.policy_of_any_age()).expect("it can be read");
    assert_eq!(failed(&found, "signature"), Some("attest_signature"));
    assert_eq!(failed(&found, "chip"), Some("attest_chip"));
}

#[test]
fn no_byte_of_a_vcek_can_be_changed() {
    for place in 0..MILAN_V3.vcek.len() {
        let mut vcek = MILAN_V3.vcek.to_vec();
        vcek[place] ^= 1 << (place % 8);
        let evidence = Evidence {
            vcek,
            ..MILAN_V3.evidence()
        };
        refused(verify(&evidence, &MILAN_V3.policy()));
    }
}

#[test]
fn a_chain_that_is_cut_or_swapped_is_refused() {
    let (ark, ask) = (der(builtin::milan::ark()), der(builtin::milan::ask()));
    let vcek = MILAN_V3.vcek.to_vec();
    let with = |vcek: &[u8], ask: &[u8], ark: &[u8]| Evidence {
        vcek: vcek.to_vec(),
        ask: Some(ask.to_vec()),
        ark: Some(ark.to_vec()),
        ..MILAN_V3.evidence()
    };
    let whole = examine(&with(&vcek, &ask, &ark), &MILAN_V3.policy()).expect("it can be read");
    assert_eq!(failures(&whole), Vec::<&str>::new());
    let of = |evidence: Evidence| {
        let found = examine(&evidence, &MILAN_V3.policy()).expect("it can be read");
        (failed(&found, "root"), failed(&found, "chain"))
    };
    let (root, link) = (Some("attest_root"), Some("attest_chain"));
    assert_eq!(of(with(&vcek, &ark, &ark)), (None, link));
    assert_eq!(of(with(&vcek, &vcek, &ark)), (None, link));
    assert_eq!(of(with(&vcek, &ark, &ask)), (root, link));
    let other = (der(builtin::genoa::ark()), der(builtin::genoa::ask()));
    assert_eq!(of(with(&vcek, &other.1, &ark)), (None, link));
    assert_eq!(of(with(&vcek, &ask, &other.0)), (root, link));
    assert_eq!(of(with(&vcek, &other.1, &other.0)), (root, link));
    // An ASK in the place of the VCEK names no line.
    let found = examine(&with(&ask, &ask, &ark), &MILAN_V3.policy());
    assert_eq!(refused(found), "attest_unknown_product");
}

#[test]
fn a_root_that_somebody_made_is_refused() {
    let forge = Forge::shared();
    let evidence = forge.evidence(forge.vcek(|_| {}), forge.report(|_| {}));
    let found = examine(&evidence, &forge.policy()).expect("it can be read");
    assert_eq!(failures(&found), ["attest_root"]);
}

#[test]
fn the_roots_that_come_with_the_library_are_those_that_are_written_down() {
    for product in [Product::Milan, Product::Genoa, Product::Turin] {
        let anchor = chain::amd(product).expect("sev brings it");
        let info = anchor.ark.tbs_certificate.subject_public_key_info.to_der();
        let digest = Sha384::digest(info.expect("it has a form"));
        assert_eq!(hex::encode(digest), product.root_key(), "{product}");
    }
}

#[test]
fn certificates_hold_only_in_their_time() {
    let at = |now| {
        let policy = Policy {
            now,
            ..MILAN_V3.policy()
        };
        let found = examine(&MILAN_V3.evidence(), &policy).expect("it can be read");
        failed(&found, "validity")
    };
    assert_eq!(at(NOW), None);
    assert_eq!(at(0), Some("attest_not_yet_valid"));
    // The VCEK is from 2025-01-15 21:21:54 to 2032-01-15 21:21:54.
    assert_eq!(at(1_736_976_113), Some("attest_not_yet_valid"));
    assert_eq!(at(1_736_976_114), None);
    assert_eq!(at(1_957_814_514), None);
    assert_eq!(at(1_957_814_515), Some("attest_expired"));
}

#[test]
fn amds_list_counts_only_when_it_is_amds_and_in_force() {
    let with = |published: &Published, list: &[u8], now| {
        let evidence = Evidence {
            revocation_list: Some(list.to_vec()),
            ..published.evidence()
        };
        let policy = Policy {
            now,
            ..published.policy_of_any_age()
        };
        let found = examine(&evidence, &policy).expect("it can be read");
        failed(&found, "revocation")
    };
    assert_eq!(with(&MILAN_V3, MILAN_LIST, NOW), None);
    assert_eq!(with(&GENOA_V5, MILAN_LIST, NOW), Some("attest_list_signature"));
    // In force from 2026-07-28 05:12:30 to 2026-09-10.
    assert_eq!(
        with(&MILAN_V3, MILAN_LIST, 1_785_215_549),
        Some("attest_not_yet_valid")
    );
    assert_eq!(with(&MILAN_V3, MILAN_LIST, 1_788_998_400), None);
    assert_eq!(with(&MILAN_V3, MILAN_LIST, 1_788_998_401), Some("attest_expired"));
    assert_eq!(with(&MILAN_V3, b"no list", NOW), Some("attest_unreadable"));
    for place in 0..MILAN_LIST.len() {
        let mut list = MILAN_LIST.to_vec();
        list[place] ^= 1 << (place % 8);
        assert!(with(&MILAN_V3, &list, NOW).is_some(), "byte {place}");
    }
}

#[test]
fn pem_is_read_like_der() {
    let certificate = SevCertificate::from_der(MILAN_V3.vcek).expect("it is DER");
    let pem = certificate.to_pem().expect("it has a form");
    let evidence = Evidence {
        vcek: pem,
        ..MILAN_V3.evidence()
    };
    let found = examine(&evidence, &MILAN_V3.policy()).expect("it can be read");
    assert_eq!(failures(&found), Vec::<&str>::new());
}

#[test]
fn what_was_not_agreed_is_refused() {
    let mut policy = MILAN_V3.policy();
    policy.guest_policy = Some(0x2_0000);
    policy.measurements = GENOA_V5.policy().measurements;
    let found = examine(&MILAN_V3.evidence(), &policy).expect("it can be read");
    assert_eq!(failures(&found), ["attest_guest_policy", "attest_measurement"]);
}
