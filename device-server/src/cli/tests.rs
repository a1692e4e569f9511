use super::*;

fn parse_words(words: &str) -> Result<Command, clap::Error> {
    match parse_task(words)? {
        Task::Serve(command) => Ok(command),
        other @ (Task::Host(_) | Task::Wait(_) | Task::PrintSandbox) => {
            panic!("vfio or test expected, not {other:?}")
        }
    }
}

fn parse_task(words: &str) -> Result<Task, clap::Error> {
    parse(
        std::iter::once("bulkhead-device-server").chain(words.split_whitespace()),
        0,
    )
}

fn vfio_devices(words: &str) -> Vec<(String, Endpoint, bool)> {
    match parse_words(words).expect("valid").devices {
        Devices::Vfio { devices, .. } => devices
            .into_iter()
            .map(|device| (device.host.to_string(), device.endpoint, device.bar_mmap))
            .collect(),
        Devices::Test { .. } => panic!("vfio expected"),
    }
}

#[test]
fn every_host_gets_what_stands_behind_it() {
    let devices = vfio_devices(
        "vfio --host 0000:1a:00.0 --socket /a --allow-no-reset --host 1a:00.1 --bar-mmap=off --socket-fd 7 --host 1a:00.2 \
         --socket=/c --bar-mmap on",
    );
    let expected = [
        ("0000:1a:00.0".into(), Endpoint::Path("/a".into()), true),
        ("0000:1a:00.1".into(), Endpoint::Fd(7), false),
        ("0000:1a:00.2".into(), Endpoint::Path("/c".into()), true),
    ];
    assert_eq!(devices, expected);
}

#[test]
fn host_without_socket_or_with_two_is_bad_usage() {
    for words in [
        "vfio --host 1a:00.0",
        "vfio --socket /a",
        "vfio --socket /a --host 1a:00.0",
        "vfio --host 1a:00.0 --socket /a --socket-fd 7",
        "vfio --host 1a:00.0 --host 1a:00.1 --socket /a --socket /b",
        "vfio --host 1a:00.0 --socket /a --host 1a:00.0 --socket /b",
        "vfio --host 1a:00.0 --socket /a --host 1a:00.1 --socket /a",
        "vfio --host nonsense --socket /a",
        "vfio --bar-mmap off --host 1a:00.0 --socket /a",
        "vfio --host 1a:00.0 --socket /a --bar-mmap off --bar-mmap off",
        "vfio --host 1a:00.0 --socket /a --bar-mmap",
        "vfio --host 1a:00.0 --socket /a --group-fd 7",
        "vfio --host 1a:00.0 --socket-fd 1",
        "test",
        "test --socket /a --socket /b",
        "test --socket /a --ready-fd 2",
        "",
    ] {
        assert_eq!(
            parse_words(words).expect_err(words).exit_code(),
            2,
            "{words}"
        );
    }
}

#[test]
fn test_device_takes_one_socket() {
    let command = parse_words("test --socket /a --message-dma --log-format json").expect("valid");
    assert_eq!(command.process.log_format, Format::Json);
    assert!(matches!(
        command.devices,
        Devices::Test { endpoint: Endpoint::Path(path), message_dma: true, id, .. } if path == std::path::Path::new("/a") && id == "test"
    ));
}

#[test]
fn host_commands_take_short_addresses_and_refuse_others() {
    let Task::Host(HostCommand::Bind { request, limit }) =
        parse_task("host bind --group 1a:00.3 0000:04:00.0 --wait 5").expect("valid")
    else {
        panic!("host bind expected");
    };
    let addresses: Vec<String> = request.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["0000:1a:00.3", "0000:04:00.0"]);
    assert!(request.whole_groups && !request.force);
    assert_eq!(limit.as_secs(), 5);
    for words in [
        "host",
        "host bind",
        "host bind ../../etc",
        "host bind 1a:00.8",
        "host check 1a:00.3 1a:00.4",
        "host list --format yaml",
        "host unbind 1a:00.3 --wait 0",
        "host vfs 1a:00.3",
        "host vfs 1a:00.3 -1",
        "host vfs 1a:00.3 65536",
    ] {
        assert_eq!(
            parse_task(words).expect_err(words).exit_code(),
            2,
            "{words}"
        );
    }
}

#[test]
fn usage_of_host_has_statuses_that_no_check_has() {
    let status = |words: &str| {
        let arguments: Vec<OsString> = std::iter::once("bulkhead-device-server")
            .chain(words.split_whitespace())
            .map(OsString::from)
            .collect();
        usage_status(&arguments, &parse(&arguments, 0).unwrap_err())
    };
    for words in [
        "host check zz",
        "host bind 1a:00.3 ../tmp",
        "host vfs 0x4 1",
    ] {
        assert_eq!(status(words), 16, "{words}");
    }
    for words in [
        "host",
        "host bind",
        "host nothing",
        "host vfs 1a:00.0 -1",
        "host bind --wait 0 1a:00.0",
    ] {
        assert_eq!(status(words), 64, "{words}");
    }
    assert_eq!(status("host --help"), 0);
    assert_eq!(status("vfio --host zz --socket /a"), 2);
}

#[test]
fn every_host_has_the_id_behind_it_or_its_address() {
    let Devices::Vfio { devices, .. } =
        parse_words("vfio --host 1a:00.0 --socket /a --id net --host 1a:00.1 --socket /b")
            .expect("valid")
            .devices
    else {
        panic!("vfio expected");
    };
    let ids: Vec<_> = devices.into_iter().map(|device| device.id).collect();
    assert_eq!(ids, ["net", "0000:1a:00.1"]);
    parse_words("vfio --id net --host 1a:00.0 --socket /a").unwrap_err();
    parse_words("vfio --host 1a:00.0 --socket /a --id net --id disk").unwrap_err();
}

#[test]
fn log_and_metrics_options_are_checked_when_they_are_parsed() {
    for words in [
        "--log-level loud",
        "--log-level vmm=loud",
        "--log-format xml",
        "--metrics /run/x",
        "--metrics tcp:1",
    ] {
        let error = parse_words(&format!("test --socket /a {words}")).expect_err(words);
        assert_eq!(error.exit_code(), 2, "{words}");
    }
    let command = parse_words(
        "test --socket /a --log-format journald --log-level info,device_server=debug --metrics unix:/run/m",
    )
    .expect("valid");
    assert_eq!(command.process.log_format, Format::Journald);
    assert_eq!(
        command.process.metrics.as_deref(),
        Some(std::path::Path::new("/run/m"))
    );
}

#[test]
fn device_without_a_socket_takes_one_that_was_passed() {
    let words = [
        "server", "vfio", "--host", "1a:00.0", "--host", "1a:00.1", "--socket", "/b", "--host",
        "1a:00.2",
    ];
    let Ok(Task::Serve(Command {
        devices: Devices::Vfio { devices, .. },
        ..
    })) = parse(words, 2)
    else {
        panic!("vfio expected");
    };
    let endpoints: Vec<_> = devices.into_iter().map(|device| device.endpoint).collect();
    assert_eq!(
        endpoints,
        [
            Endpoint::Fd(3),
            Endpoint::Path("/b".into()),
            Endpoint::Fd(4)
        ]
    );
    parse(words, 1).unwrap_err();
}

#[test]
fn server_that_waits_is_told_where_and_nothing_of_devices() {
    let words = "spare --order-fd 4 --ready-fd 3 --sandbox off --max-locked-memory 5";
    let Task::Wait(spare) = parse_task(words).expect("valid") else {
        panic!("spare expected");
    };
    assert_eq!((spare.order_fd, spare.process.ready_fd), (4, Some(3)));
    assert_eq!(spare.options.max_locked_memory, Some(5));
    assert!(
        !spare.early,
        "as a supervisor asks that knows nothing of it"
    );
    let Task::Wait(spare) = parse_task(&format!("{words} --early")).expect("valid") else {
        panic!("spare expected");
    };
    assert!(spare.early);
    for words in [
        "spare",
        "spare --order-fd 2",
        "spare --order-fd 4 --host 1a:00.0",
        "spare --order-fd 4 --group-fd 5 --container-fd 6",
        "spare --order-fd 4 --metrics unix:/m",
    ] {
        assert_eq!(
            parse_task(words).expect_err(words).exit_code(),
            2,
            "{words}"
        );
    }
}
