use std::path::Path;

use super::{DEFAULT_BYTES, HugetlbConfig, MemoryConfig, MemoryObject};

fn memory(m: Option<&str>, object: Option<&str>) -> Result<MemoryConfig, String> {
    let object = object
        .map(|text| MemoryObject::parse(text).map_err(|error| error.to_string()))
        .transpose()?;
    MemoryConfig::from_options(m, object, None, false).map_err(|error| error.to_string())
}

#[test]
fn m_is_in_mebibytes_unless_it_says_otherwise() {
    for text in ["512", "512M", "size=512M", "524288K"] {
        assert_eq!(
            memory(Some(text), None).unwrap().size_bytes,
            512 << 20,
            "{text}"
        );
    }
    assert_eq!(memory(None, None).unwrap().size_bytes, DEFAULT_BYTES);
}

#[test]
fn object_asks_for_huge_pages_of_two_sizes() {
    let text = "memory-backend-memfd,id=m0,size=2G,hugetlb=on,share=on";
    let huge = |page_size_bytes| Some(HugetlbConfig { page_size_bytes });
    assert_eq!(
        memory(Some("2G"), Some(text)).unwrap().hugetlb,
        huge(2 << 20)
    );
    assert_eq!(
        memory(None, Some(&format!("{text},hugetlbsize=1G")))
            .unwrap()
            .hugetlb,
        huge(1 << 30)
    );
    assert!(
        memory(None, Some(&format!("{text},hugetlbsize=4M")))
            .unwrap_err()
            .contains("2M or 1G")
    );
}

#[test]
fn object_of_another_size_than_m_is_refused_with_both() {
    let refused = memory(Some("512M"), Some("memory-backend-memfd,id=m0,size=1G")).unwrap_err();
    assert!(
        refused.contains("1024 MiB") && refused.contains("512 MiB"),
        "{refused}"
    );
}

#[test]
fn memory_that_is_not_shared_or_of_another_kind_is_refused() {
    assert!(
        memory(None, Some("memory-backend-memfd,id=m0,size=1G,share=off"))
            .unwrap_err()
            .contains("always shared")
    );
    assert!(
        memory(None, Some("memory-backend-file,id=m0,size=1G"))
            .unwrap_err()
            .contains("memory-backend-memfd")
    );
}

#[test]
fn too_little_memory_and_half_huge_pages_are_refused() {
    assert!(
        memory(Some("16M"), None)
            .unwrap_err()
            .contains("at least 32 MiB")
    );
    assert!(
        memory(None, Some("memory-backend-memfd,id=m,size=33M,hugetlb=on"))
            .unwrap_err()
            .contains("multiple")
    );
    assert!(memory(Some("x"), None).unwrap_err().starts_with("-m x: "));
}

#[test]
fn mem_path_that_is_no_hugetlbfs_or_not_there_is_refused() {
    for (path, reason) in [
        ("/proc", "not on a hugetlbfs"),
        ("/nonexistent", "No such file"),
    ] {
        let refused = MemoryConfig::from_options(None, None, Some(Path::new(path)), false)
            .unwrap_err()
            .to_string();
        assert!(
            refused.starts_with(&format!("-mem-path {path}: ")) && refused.contains(reason),
            "{refused}"
        );
    }
}
