//! How much memory, made of which pages: `-m`, `-object memory-backend-memfd`, `-mem-path`, `-mem-prealloc`.
//!
//! Guest RAM is always one sealed memfd. `-mem-path PATH` opens no file there: a file on hugetlbfs cannot be sealed, so
//! PATH only says which size of huge pages to take.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::property_list::{PropertyError, PropertyList};
use super::size::{self, PlainUnit};

#[cfg(test)]
mod tests;

/// The least that a Linux kernel and its initrd can start in.
pub const MIN_BYTES: u64 = 32 << 20;
/// What `-m` is without being given.
pub const DEFAULT_BYTES: u64 = 512 << 20;
/// Page sizes of x86.
const HUGE_PAGE_SIZES: [u64; 2] = [2 << 20, 1 << 30];
const SMALL_PAGE: u64 = 4096;
/// Type of a hugetlbfs file system (linux/magic.h).
const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;

/// Guest memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryConfig {
    /// How much.
    pub size_bytes: u64,
    /// Huge pages, if wanted.
    pub hugetlb: Option<HugetlbConfig>,
    /// Where `-mem-path` pointed; its page size is in `hugetlb` already.
    pub mem_path: Option<PathBuf>,
    /// Take all pages at start.
    pub prealloc: bool,
}

/// Huge pages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugetlbConfig {
    /// 2 MiB or 1 GiB.
    pub page_size_bytes: u64,
}

/// `-object memory-backend-memfd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryObject {
    /// Its id, for `-machine memory-backend=`.
    pub id: String,
    size_bytes: u64,
    hugetlb: Option<HugetlbConfig>,
    prealloc: bool,
}

impl MemoryConfig {
    /// Page size in bytes.
    pub fn page_size(&self) -> u64 {
        self.hugetlb
            .as_ref()
            .map_or(SMALL_PAGE, |huge| huge.page_size_bytes)
    }

    /// From all memory options. Reads the file system of `-mem-path`.
    pub fn from_options(
        m: Option<&str>,
        object: Option<MemoryObject>,
        mem_path: Option<&Path>,
        prealloc: bool,
    ) -> Result<MemoryConfig, ConfigError> {
        let size_bytes = match (m.map(parse_m).transpose()?, &object) {
            (Some(m), Some(object)) if m != object.size_bytes => {
                let reason = format!(
                    "size is {} MiB, -m says {} MiB; make them equal",
                    object.size_bytes >> 20,
                    m >> 20
                );
                return Err(ConfigError::option("object", &object.id, reason));
            }
            (Some(size), _) => size,
            (None, Some(object)) => object.size_bytes,
            (None, None) => DEFAULT_BYTES,
        };
        let from_path = mem_path.map(huge_pages_of).transpose()?;
        let (from_object, object_prealloc) =
            object.map_or((None, false), |object| (object.hugetlb, object.prealloc));
        if let (Some(path), Some(object)) = (&from_path, &from_object)
            && path != object
        {
            return Err(ConfigError::Missing(
                "-mem-path and hugetlbsize= of -object name two page sizes; give one of them"
                    .to_owned(),
            ));
        }
        let memory = MemoryConfig {
            size_bytes,
            hugetlb: from_object.or(from_path),
            mem_path: mem_path.map(Path::to_owned),
            prealloc: prealloc || object_prealloc,
        };
        memory.checked()
    }

    fn checked(self) -> Result<MemoryConfig, ConfigError> {
        let refuse = |reason| {
            Err(ConfigError::option(
                "m",
                &format!("{}M", self.size_bytes >> 20),
                reason,
            ))
        };
        if self.size_bytes < MIN_BYTES {
            return refuse(format!(
                "a guest needs at least {} MiB of memory",
                MIN_BYTES >> 20
            ));
        }
        let page = self.page_size();
        if !self.size_bytes.is_multiple_of(page) {
            return refuse(format!(
                "the size must be a multiple of the page size, {} KiB",
                page >> 10
            ));
        }
        Ok(self)
    }
}

impl MemoryObject {
    /// Parses `memory-backend-memfd,id=,size=,hugetlb=on[,hugetlbsize=2M],share=on`.
    pub fn parse(text: &str) -> Result<MemoryObject, ConfigError> {
        let refuse = |error: PropertyError| ConfigError::option("object", text, error);
        let properties = PropertyList::parse(text).map_err(refuse)?;
        if properties.head != "memory-backend-memfd" {
            let reason = "the only object there is is memory-backend-memfd";
            return Err(ConfigError::option("object", text, reason));
        }
        memory_object(properties).map_err(refuse)
    }
}

fn memory_object(mut properties: PropertyList) -> Result<MemoryObject, PropertyError> {
    let id = properties.take_required("id", "mem0")?;
    let size_bytes = size::parse(&properties.take_required("size", "512M")?, PlainUnit::Bytes)
        .map_err(PropertyError)?;
    let hugetlb = properties.take_switch("hugetlb")?.unwrap_or(false);
    let page_size_bytes = match properties.take("hugetlbsize") {
        Some(size) => size::parse(&size, PlainUnit::Bytes).map_err(PropertyError)?,
        None => HUGE_PAGE_SIZES[0],
    };
    let share = properties.take_switch("share")?.unwrap_or(true);
    let seal = properties.take_switch("seal")?.unwrap_or(true);
    let prealloc = properties.take_switch("prealloc")?.unwrap_or(false);
    properties.finish()?;
    if !share || !seal {
        let reason = "guest memory is always shared and sealed, as device servers map it; leave share and seal on";
        return Err(PropertyError(reason.to_owned()));
    }
    if !HUGE_PAGE_SIZES.contains(&page_size_bytes) {
        return Err(PropertyError(
            "hugetlbsize: huge pages are 2M or 1G".to_owned(),
        ));
    }
    let hugetlb = hugetlb.then_some(HugetlbConfig { page_size_bytes });
    Ok(MemoryObject {
        id,
        size_bytes,
        hugetlb,
        prealloc,
    })
}

fn parse_m(text: &str) -> Result<u64, ConfigError> {
    let parse = || {
        let mut properties = PropertyList::parse_with_head_key(text, "size")?;
        let size = properties.take_required("size", "512M")?;
        properties.finish()?;
        size::parse(&size, PlainUnit::Mebibytes).map_err(PropertyError)
    };
    parse().map_err(|error| ConfigError::option("m", text, error))
}

/// The page size of the hugetlbfs that `path` is on.
fn huge_pages_of(path: &Path) -> Result<HugetlbConfig, ConfigError> {
    let refuse = |reason: String| {
        Err(ConfigError::option(
            "mem-path",
            &path.display().to_string(),
            reason,
        ))
    };
    let file_system = match rustix::fs::statfs(path) {
        Ok(file_system) => file_system,
        Err(errno) => return refuse(std::io::Error::from(errno).to_string()),
    };
    if file_system.f_type != HUGETLBFS_MAGIC {
        return refuse(
            "not on a hugetlbfs; mount one (mount -t hugetlbfs none PATH) or leave -mem-path out: guest memory is \
             shared memory anyway"
                .to_owned(),
        );
    }
    match u64::try_from(file_system.f_bsize) {
        Ok(page_size_bytes) if HUGE_PAGE_SIZES.contains(&page_size_bytes) => {
            Ok(HugetlbConfig { page_size_bytes })
        }
        _ => refuse(format!(
            "pages of {} bytes; 2M or 1G are supported",
            file_system.f_bsize
        )),
    }
}
