//! What there is, asked without opening a device: driver, GPUs, libraries, our own kernels.

use alephlab_cuda_stubs::{CUBLAS, CURAND, DRIVER, Library, Missing};
use candle_core::cuda_backend::kernels;
use cudarc::driver::sys::{CUdevice_attribute, CUresult};
use cudarc::driver::{DriverError, result};

use super::{driver, faults};
use crate::device::report::Seen;
use crate::device::{Absence, cuda_version as version};

/// Looks at a GPU; the first reason why it could not be used.
pub(super) fn look(ordinal: usize) -> Result<Seen, Absence> {
    DRIVER.found().map_err(|missing| Absence::NoDriver {
        reason: reason(missing),
    })?;
    match result::init() {
        Ok(()) => {}
        Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => return Err(no_device()),
        Err(error) => return Err(fails(error)),
    }
    let count = usize::try_from(result::device::get_count().map_err(fails)?).unwrap_or(0);
    if count == 0 {
        return Err(no_device());
    }
    let seen = match i32::try_from(ordinal) {
        Ok(number) if ordinal < count => describe(number, count).map_err(fails)?,
        _ => return Err(Absence::NoSuchDevice { ordinal, count }),
    };
    check_kernels(&seen, kernels::BUILT)?;
    for library in [&CUBLAS, &CURAND] {
        library
            .found()
            .map_err(|missing| no_library(library, missing, seen.driver))?;
    }
    Ok(seen)
}

fn describe(number: i32, count: usize) -> Result<Seen, DriverError> {
    let device = result::device::get(number)?;
    let capability = |which| driver::attribute(device, which);
    Ok(Seen {
        name: result::device::get_name(device)?,
        driver: driver::version()?,
        count,
        capability: (
            capability(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            capability(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        total: driver::total(device)?,
    })
}

/// Whether our kernels are there, and whether driver and GPU are new enough for them.
fn check_kernels(seen: &Seen, built: Option<kernels::Built>) -> Result<(), Absence> {
    let built = built.ok_or(Absence::NoKernels)?;
    if seen.driver < built.driver {
        return Err(Absence::DriverTooOld {
            has: version(seen.driver),
            needs: version(built.driver),
        });
    }
    let needs = least(built.target);
    if seen.capability < needs {
        return Err(Absence::DeviceTooOld {
            name: seen.name.clone(),
            has: format!("{}.{}", seen.capability.0, seen.capability.1),
            needs: format!("{}.{}", needs.0, needs.1),
        });
    }
    Ok(())
}

/// `compute_80` → 8.0.
fn least(target: &str) -> (i32, i32) {
    let number: i32 = target
        .trim_start_matches(|c: char| !c.is_ascii_digit())
        .parse()
        .unwrap_or(0);
    (number / 10, number % 10)
}

fn no_device() -> Absence {
    Absence::NoDevice {
        driver: driver::version().map_or_else(|_| "an unknown version".to_owned(), version),
    }
}

fn fails(error: DriverError) -> Absence {
    Absence::DriverFails {
        what: faults::words(error),
    }
}

fn no_library(library: &Library, missing: &Missing, driver: i32) -> Absence {
    Absence::NoLibrary {
        library: library.name,
        file: library.files.first().copied().unwrap_or_default(),
        reason: reason(missing),
        driver,
    }
}

/// A file that is there and cannot be loaded says more than a name that is not found.
fn reason(missing: &Missing) -> String {
    missing.refused.first().unwrap_or(&missing.reason).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(driver: i32, capability: (i32, i32)) -> Seen {
        Seen {
            name: "a GPU".to_owned(),
            driver,
            count: 1,
            capability,
            total: 0,
        }
    }

    #[test]
    fn kernels_need_a_driver_and_a_gpu_that_are_new_enough() {
        let built = kernels::Built {
            compiler: "13.0.88",
            target: "compute_80",
            driver: 13000,
        };
        let check = |driver, capability| check_kernels(&seen(driver, capability), Some(built));
        assert_eq!(check(13000, (8, 0)), Ok(()));
        assert_eq!(check(13010, (9, 0)), Ok(()));
        let old = check(12040, (9, 0)).unwrap_err().to_string();
        assert!(
            old.contains("for CUDA 12.4") && old.contains("need 13.0"),
            "{old}"
        );
        let small = check(13000, (7, 5)).unwrap_err().to_string();
        assert!(
            small.contains("capability 7.5") && small.contains("need 8.0"),
            "{small}"
        );
        assert_eq!(check_kernels(&seen(13000, (9, 0)), None), Err(Absence::NoKernels));
    }

    #[test]
    fn targets_are_read_as_nvidia_writes_them() {
        assert_eq!(least("compute_80"), (8, 0));
        assert_eq!(least("compute_120"), (12, 0));
    }
}
