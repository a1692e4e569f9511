use protocol::supervisor::BarMmap;

use super::*;

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, content: &[u8]) -> Scratch {
        let name = format!("bulkhead-policy-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, content).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn parsed(option: &str) -> Result<Vec<PolicyRule>, String> {
    parse_all(&[option.to_owned()]).map_err(|error| error.to_string())
}

fn in_file(name: &str, content: &[u8]) -> Result<Vec<PolicyRule>, String> {
    let scratch = Scratch::new(name, content);
    parsed(scratch.0.to_str().unwrap())
}

fn host(address: &str, options: HostOptions) -> PolicyRule {
    PolicyRule::Host {
        host: address.parse().unwrap(),
        options,
    }
}

#[test]
fn rule_names_a_host_with_its_options_a_socket_or_an_image() {
    let careful = HostOptions {
        allow_no_reset: true,
        allow_noncoherent: false,
        bar_mmap: BarMmap::Off,
        managed: true,
    };
    for (text, rule) in [
        (
            "allow-host=1a:00.3",
            host("0000:1a:00.3", HostOptions::default()),
        ),
        (
            "allow-host=1a:00.3,allow-no-reset=on,bar-mmap=off,managed=on",
            host("0000:1a:00.3", careful),
        ),
        (
            "allow-socket=/run/x.sock",
            PolicyRule::Socket("/run/x.sock".into()),
        ),
        (
            "allow-image=/boot/vmlinuz",
            PolicyRule::Image("/boot/vmlinuz".into()),
        ),
    ] {
        assert_eq!(parsed(text).unwrap(), [rule], "{text}");
    }
}

#[test]
fn rule_that_cannot_be_is_refused_with_what_to_write() {
    for (text, words) in [
        ("allow-host=x", "allow-host: "),
        ("allow-socket=x", "allow-socket"),
        ("allow-image=x", "write the whole path"),
        ("allow-image=/x,allow-host=1a:00.3", "one per option"),
        ("allow-host=1a:00.3,allow-socket=/x", "one per option"),
        ("allow-host=1a:00.3,speed=11", "speed"),
        ("all", "one rule per line"),
    ] {
        let error = parsed(text).unwrap_err();
        assert!(
            error.starts_with(&format!("-device-policy {text}: ")),
            "{error}"
        );
        assert!(error.contains(words), "{text}: {error}");
    }
}

#[test]
fn file_has_a_rule_per_line_and_comments() {
    let rules = in_file(
        "good",
        b"# the disk\nallow-host=1a:00.3\n\n  allow-socket=/run/x.sock  \n",
    );
    assert_eq!(
        rules.unwrap(),
        [
            host("0000:1a:00.3", HostOptions::default()),
            PolicyRule::Socket("/run/x.sock".into())
        ]
    );
}

#[test]
fn file_with_a_line_that_cannot_be_is_refused_with_the_line() {
    for (name, content, words) in [
        (
            "typo",
            "allow-host=1a:00.3\nallow-hots=1a:00.4\n".as_bytes(),
            "line 2: allow-hots=1a:00.4: ",
        ),
        ("empty", b"# nothing\n", "no rule"),
        ("binary", &[0xff, 0xfe], "UTF-8"),
        (
            "large",
            &[b'#'; MAX_FILE_BYTES + 1],
            "more than 65536 bytes",
        ),
    ] {
        let error = in_file(name, content).unwrap_err();
        assert!(error.contains(words), "{name}: {error}");
    }
    let many = "allow-host=1a:00.3\n".repeat(MAX_RULES + 1);
    let error = in_file("many", many.as_bytes()).unwrap_err();
    assert!(error.contains("1025 rules"), "{error}");
}

#[test]
fn policy_that_is_no_regular_file_is_refused_and_not_waited_for() {
    let fifo = std::env::temp_dir().join(format!("bulkhead-policy-{}-fifo", std::process::id()));
    let fifo = Scratch(fifo);
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo.0, rustix::fs::Mode::RUSR).unwrap();
    for path in [
        fifo.0.to_str().unwrap(),
        "/dev",
        "/dev/null",
        "/no/such/policy",
    ] {
        let error = parsed(path).unwrap_err();
        assert!(
            error.contains(path) && error.contains("one rule per line"),
            "{error}"
        );
    }
}
