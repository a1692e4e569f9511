//! `-iommu-backend`: which way to the IOMMU our device servers take.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::ConfigError;

/// Which way to the IOMMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IommuBackend {
    /// iommufd where it can map files, else type1: each server decides.
    Auto,
    /// iommufd, or no start.
    Iommufd,
    /// VFIO's type1 container.
    Type1,
}

impl IommuBackend {
    /// Parses the value of `-iommu-backend`.
    pub fn parse(text: &str) -> Result<IommuBackend, ConfigError> {
        [
            IommuBackend::Auto,
            IommuBackend::Iommufd,
            IommuBackend::Type1,
        ]
        .into_iter()
        .find(|backend| backend.to_string() == text)
        .ok_or_else(|| ConfigError::option("iommu-backend", text, "write auto, iommufd or type1"))
    }
}

impl fmt::Display for IommuBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            IommuBackend::Auto => "auto",
            IommuBackend::Iommufd => "iommufd",
            IommuBackend::Type1 => "type1",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backend_is_one_of_three_words() {
        assert_eq!(IommuBackend::parse("auto"), Ok(IommuBackend::Auto));
        assert_eq!(IommuBackend::parse("iommufd"), Ok(IommuBackend::Iommufd));
        assert_eq!(IommuBackend::parse("type1"), Ok(IommuBackend::Type1));
        let refused = IommuBackend::parse("vfio").unwrap_err().to_string();
        assert_eq!(refused, "-iommu-backend vfio: write auto, iommufd or type1");
    }
}
