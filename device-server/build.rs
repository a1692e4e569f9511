//! Writes the names of the PCI ID database (crate `pci-ids`) as one text, a line "key\tname" each, for `src/host/names.rs`.
//!
//! As the crate has them they are 50,000 pointers, which every device server would relocate at its start and keep in memory,
//! and only the host commands read them.
//!
//! | Key | Names |
//! |---|---|
//! | `vVVVV` | a vendor |
//! | `dVVVVDDDD` | a device |
//! | `cCC` | a class |
//! | `cCCSS` | a subclass |

use std::fmt::Write as _;
use std::{env, fs, path};

use pci_ids::{Classes, Vendors};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    // Each key begins after a line break, the first one too.
    let mut names = String::from("\n");
    for vendor in Vendors::iter() {
        writeln!(names, "v{:04x}\t{}", vendor.id(), vendor.name())?;
        for device in vendor.devices() {
            let (vendor, id) = device.as_vid_pid();
            writeln!(names, "d{vendor:04x}{id:04x}\t{}", device.name())?;
        }
    }
    for class in Classes::iter() {
        writeln!(names, "c{:02x}\t{}", class.id(), class.name())?;
        for subclass in class.subclasses() {
            let (class, id) = subclass.as_cid_sid();
            writeln!(names, "c{class:02x}{id:02x}\t{}", subclass.name())?;
        }
    }
    let folder = env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    fs::write(path::Path::new(&folder).join("pci-names.txt"), names)?;
    Ok(())
}
