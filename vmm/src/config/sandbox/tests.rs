use super::*;

fn parse(mode: &str, uids: &str) -> Result<SandboxConfig, String> {
    SandboxConfig::parse(Some(mode), Some(uids), None).map_err(|error| error.to_string())
}

#[test]
fn sandbox_is_on_unless_it_is_said_otherwise() {
    let config = SandboxConfig::parse(None, None, None).unwrap();
    assert_eq!(config.mode, Mode::On);
    assert_eq!(config.uids, None);
}

#[test]
fn uid_range_has_a_first_and_a_last_number() {
    let range = UidRange {
        first: 200_000,
        last: 200_063,
    };
    assert_eq!(parse("on", "200000-200063").unwrap().uids, Some(range));
    for bad in ["", "5", "7-5", "a-b", "1-", "-3", "5-4294967296"] {
        let error = parse("on", bad).unwrap_err();
        assert!(
            error.starts_with(&format!("-sandbox-uids {bad}: write")),
            "{error}"
        );
    }
}

#[test]
fn uid_range_with_root_or_nobody_in_it_is_refused() {
    for bad in ["0-10", "60000-70000", "4294967000-4294967295"] {
        let error = parse("on", bad).unwrap_err();
        assert!(error.contains("belongs to others"), "{error}");
    }
}

#[test]
fn uid_range_without_a_sandbox_is_refused() {
    for mode in ["off", "inherited"] {
        let error = parse(mode, "200000-200063").unwrap_err();
        assert!(error.contains(mode), "{error}");
    }
}

#[test]
fn unknown_mode_names_the_modes() {
    let error = SandboxConfig::parse(Some("strict"), None, None).unwrap_err();
    let text = "-sandbox strict: strict: write on, best-effort, inherited or off";
    assert_eq!(error.to_string(), text);
}
