//! Versions of a host's firmware and microcode, and the least that is accepted.
//!
//! The least are the versions below which AMD says that microcode can be forged (AMD-SB-3019, AMD-SB-7033: "EntrySign"): with
//! forged microcode a report proves nothing. Those for Turin are Aleph's own, of its SDK 0.22. The network's settings can
//! only raise them.

use std::fmt;

use sev::firmware::guest::AttestationReport;
use sev::firmware::host::TcbVersion;

use super::chain::Product;
use super::error::{AttestError, Result};

/// Security versions of the parts of one host's firmware.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tcb {
    /// The first code that the chip runs; only Turin has it.
    pub fmc: u8,
    /// The secure processor's boot loader.
    pub bootloader: u8,
    /// Its operating system.
    pub tee: u8,
    /// Its SEV-SNP firmware.
    pub snp: u8,
    /// The processor's microcode. Numbers of different chips cannot be compared.
    pub microcode: u8,
}

impl Tcb {
    fn parts(&self) -> [u8; 5] {
        [self.fmc, self.bootloader, self.tee, self.snp, self.microcode]
    }

    /// Whether every part is at least that of `floor`.
    fn reaches(&self, floor: &Self) -> bool {
        self.parts()
            .iter()
            .zip(floor.parts())
            .all(|(found, least)| *found >= least)
    }

    /// The higher of each part.
    fn raised(self, other: Self) -> Self {
        Self {
            fmc: self.fmc.max(other.fmc),
            bootloader: self.bootloader.max(other.bootloader),
            tee: self.tee.max(other.tee),
            snp: self.snp.max(other.snp),
            microcode: self.microcode.max(other.microcode),
        }
    }
}

impl fmt::Display for Tcb {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.fmc > 0 {
            write!(formatter, "fmc={},", self.fmc)?;
        }
        write!(
            formatter,
            "bootloader={},tee={},snp={},microcode={}",
            self.bootloader, self.tee, self.snp, self.microcode
        )
    }
}

impl std::str::FromStr for Tcb {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let mut tcb = Self::default();
        for pair in text.split(',') {
            let wrong = || format!("`{pair}` is not of the form PART=NUMBER, with a number up to 255");
            let (part, number) = pair.split_once('=').ok_or_else(wrong)?;
            let number = number.trim().parse().map_err(|_| wrong())?;
            let place = match part.trim() {
                "fmc" => &mut tcb.fmc,
                "bootloader" => &mut tcb.bootloader,
                "tee" => &mut tcb.tee,
                "snp" => &mut tcb.snp,
                "microcode" => &mut tcb.microcode,
                other => {
                    return Err(format!(
                        "`{other}` is none of fmc, bootloader, tee, snp, microcode"
                    ));
                }
            };
            *place = number;
        }
        Ok(tcb)
    }
}

impl From<TcbVersion> for Tcb {
    fn from(version: TcbVersion) -> Self {
        Self {
            fmc: version.fmc.unwrap_or(0),
            bootloader: version.bootloader,
            tee: version.tee,
            snp: version.snp,
            microcode: version.microcode,
        }
    }
}

/// The least firmware that is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Floor {
    /// What is built in for the chip, raised by what the network asks for (zeros raise nothing).
    BuiltIn {
        /// `snp_min_tcb` of the network's settings.
        raised: Tcb,
    },
    /// Exactly this, also when it is lower: to look at old reports. Nothing may be released by it.
    Given(Tcb),
}

impl Default for Floor {
    fn default() -> Self {
        Self::BuiltIn {
            raised: Tcb::default(),
        }
    }
}

impl Floor {
    fn of(&self, product: Product, report: &AttestationReport) -> Tcb {
        match *self {
            Self::BuiltIn { raised } => built_in(product, report).raised(raised),
            Self::Given(tcb) => tcb,
        }
    }

    /// Compares all four of the report's versions: what the VM was started under counts as much as what runs now.
    pub(super) fn check(&self, product: Product, report: &AttestationReport) -> Result<Tcb> {
        let floor = self.of(product, report);
        let views = [
            ("launch", report.launch_tcb),
            ("reported", report.reported_tcb),
            ("current", report.current_tcb),
            ("committed", report.committed_tcb),
        ];
        for (view, version) in views {
            let found = Tcb::from(version);
            if !found.reaches(&floor) {
                return Err(AttestError::TcbFloor { view, found, floor });
            }
        }
        Ok(floor)
    }
}

/// Family of Milan's and Genoa's chips.
const ZEN_3_AND_4: u8 = 0x19;
/// Stepping of chips with stacked cache, whose microcode is numbered apart.
const STACKED_CACHE: u8 = 2;

/// Without a chip's family, model and stepping (reports before version 3) the strictest of its line.
fn built_in(product: Product, report: &AttestationReport) -> Tcb {
    let chip = (report.cpuid_fam_id, report.cpuid_mod_id, report.cpuid_step);
    let of = |bootloader, snp, microcode| Tcb {
        bootloader,
        snp,
        microcode,
        ..Tcb::default()
    };
    match (product, chip) {
        (Product::Milan, (Some(ZEN_3_AND_4), Some(_), Some(STACKED_CACHE))) => of(4, 22, 68),
        (Product::Milan, _) => of(4, 22, 219),
        // Bergamo and Siena
        (Product::Genoa, (Some(ZEN_3_AND_4), Some(0xA0..=0xAF), _)) => of(9, 21, 25),
        (Product::Genoa, (Some(ZEN_3_AND_4), Some(_), Some(STACKED_CACHE))) => of(9, 21, 79),
        (Product::Genoa, _) => of(9, 21, 84),
        (Product::Turin, _) => Tcb {
            fmc: 3,
            ..of(4, 8, 12)
        },
    }
}
