use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;

use super::*;

fn attach_host() -> Request {
    let target = Target::Host {
        host: "0000:1a:00.3".parse().unwrap(),
        options: HostOptions::default(),
    };
    Request::Attach {
        number: 7,
        id: "net".into(),
        target,
    }
}

fn open_image() -> Request {
    Request::OpenImage {
        number: 9,
        path: "/boot/vmlinuz".into(),
    }
}

#[test]
fn requests_golden_text() {
    let with_options = Target::Host {
        host: "0000:1a:00.3".parse().unwrap(),
        options: HostOptions {
            allow_no_reset: true,
            allow_noncoherent: true,
            bar_mmap: BarMmap::Force,
            managed: true,
        },
    };
    let with_options = Request::Attach {
        number: 7,
        id: "net".into(),
        target: with_options,
    };
    let socket = Request::Attach {
        number: u32::MAX,
        id: "d".into(),
        target: Target::Socket {
            path: "/run/x.sock".into(),
        },
    };
    let release = Request::Release {
        number: 8,
        id: "net".into(),
    };
    let close_image = Request::CloseImage {
        number: 10,
        image: 9,
    };
    for (request, text) in [
        (
            attach_host(),
            r#"{"attach":{"number":7,"id":"net","host":"0000:1a:00.3"}}"#,
        ),
        (
            with_options,
            r#"{"attach":{"number":7,"id":"net","host":"0000:1a:00.3","allow-no-reset":true,"allow-noncoherent":true,"bar-mmap":"force","managed":true}}"#,
        ),
        (
            socket,
            r#"{"attach":{"number":4294967295,"id":"d","socket":"/run/x.sock"}}"#,
        ),
        (release, r#"{"release":{"number":8,"id":"net"}}"#),
        (
            open_image(),
            r#"{"open-image":{"number":9,"path":"/boot/vmlinuz"}}"#,
        ),
        (close_image, r#"{"close-image":{"number":10,"image":9}}"#),
    ] {
        assert_eq!(String::from_utf8(request.encode()).unwrap(), text);
        assert_eq!(Request::decode(text.as_bytes()), Ok(request));
    }
}

#[test]
fn request_truncated_at_any_length_is_refused() {
    let close_image = Request::CloseImage {
        number: 10,
        image: 9,
    };
    for request in [attach_host(), open_image(), close_image] {
        let packet = request.encode();
        for length in 0..packet.len() {
            assert_eq!(
                Request::decode(&packet[..length]),
                Err(MessageError::Unknown),
                "{request:?} to {length}"
            );
        }
    }
}

#[test]
fn requests_outside_the_closed_set_are_refused() {
    for text in [
        r#"{"exec":{"number":1,"id":"x"}}"#,
        r#"{"attach":{"number":1,"id":"x"}}"#,
        r#"{"attach":{"id":"x","host":"0000:1a:00.3"}}"#,
        r#"{"attach":{"number":-1,"id":"x","host":"0000:1a:00.3"}}"#,
        r#"{"attach":{"number":4294967296,"id":"x","host":"0000:1a:00.3"}}"#,
        r#"{"attach":{"number":1,"id":"x","host":"0000:1a:00.3","socket":"/run/x.sock"}}"#,
        r#"{"attach":{"number":1,"id":"x","socket":"/run/x.sock","allow-no-reset":true}}"#,
        r#"{"attach":{"number":1,"id":"x","socket":"/run/x.sock","bar-mmap":"off"}}"#,
        r#"{"attach":{"number":1,"id":"x","socket":"/run/x.sock","allow-noncoherent":true}}"#,
        r#"{"attach":{"number":1,"id":"x","host":"0000:1a:00.3","bar-mmap":"maybe"}}"#,
        r#"{"attach":{"number":1,"id":"x","host":"0000:1a:00.3","container":"/dev/vfio/vfio"}}"#,
        r#"{"release":{"number":1,"id":"x"}} {"release":{"number":2,"id":"y"}}"#,
        r#"{"open-image":{"number":1}}"#,
        r#"{"open-image":{"number":1,"path":"/boot/vmlinuz","write":true}}"#,
        r#"{"open-image":{"number":1,"path":["/boot/vmlinuz"]}}"#,
        r#"{"close-image":{"number":1}}"#,
        r#"{"close-image":{"number":1,"image":-1}}"#,
        r#"{"close-image":{"number":1,"image":"/boot/vmlinuz"}}"#,
        r#"[]"#,
    ] {
        assert_eq!(
            Request::decode(text.as_bytes()),
            Err(MessageError::Unknown),
            "{text}"
        );
    }
}

#[test]
fn field_that_cannot_be_is_told_with_the_number_of_its_request() {
    let long_id = format!(
        r#"{{"release":{{"number":9,"id":"{}"}}}}"#,
        "x".repeat(MAX_ID_BYTES + 1)
    );
    let long_path = format!(
        r#"{{"attach":{{"number":9,"id":"x","socket":"/{}"}}}}"#,
        "x".repeat(MAX_SOCKET_PATH_BYTES)
    );
    let long_image = format!(
        r#"{{"open-image":{{"number":9,"path":"/{}"}}}}"#,
        "x".repeat(MAX_IMAGE_PATH_BYTES)
    );
    for text in [
        r#"{"open-image":{"number":9,"path":"vmlinuz"}}"#,
        r#"{"open-image":{"number":9,"path":""}}"#,
        r#"{"open-image":{"number":9,"path":"/a\u0000b"}}"#,
        &long_image,
        r#"{"attach":{"number":9,"id":"x","host":"../../etc"}}"#,
        r#"{"attach":{"number":9,"id":"x","socket":"relative"}}"#,
        r#"{"attach":{"number":9,"id":"x","socket":"/a\nb"}}"#,
        r#"{"attach":{"number":9,"id":"","host":"0000:1a:00.3"}}"#,
        r#"{"attach":{"number":9,"id":"a\nb","host":"0000:1a:00.3"}}"#,
        &long_id,
        &long_path,
    ] {
        assert!(
            matches!(
                Request::decode(text.as_bytes()),
                Err(MessageError::Field { number: 9, .. })
            ),
            "{text}"
        );
    }
}

#[test]
fn replies_golden_text() {
    for (reply, text) in [
        (
            Reply::Attached { number: 7 },
            r#"{"attached":{"number":7}}"#,
        ),
        (
            Reply::Released { number: 7 },
            r#"{"released":{"number":7}}"#,
        ),
        (Reply::Opened { number: 7 }, r#"{"opened":{"number":7}}"#),
        (
            Reply::held(7, "its server is stuck"),
            r#"{"held":{"number":7,"reason":"its server is stuck"}}"#,
        ),
        (
            Reply::refused(7, "no\nway"),
            r#"{"refused":{"number":7,"reason":"no way"}}"#,
        ),
    ] {
        assert_eq!(String::from_utf8(reply.encode()).unwrap(), text);
        assert_eq!(Reply::decode(text.as_bytes()), Ok(reply.clone()));
        assert_eq!(reply.number(), 7);
    }
}

#[test]
fn longest_messages_fit_the_limit() {
    let path = format!("/{}", "\"".repeat(MAX_SOCKET_PATH_BYTES - 1));
    let request = Request::Attach {
        number: u32::MAX,
        id: "\"".repeat(MAX_ID_BYTES),
        target: Target::Socket { path },
    };
    assert!(request.encode().len() <= MAX_CONTROL_BYTES);
    let request = Request::OpenImage {
        number: u32::MAX,
        path: format!("/{}", "\"".repeat(MAX_IMAGE_PATH_BYTES - 1)),
    };
    assert!(request.encode().len() <= MAX_CONTROL_BYTES);
    let reply = Reply::refused(u32::MAX, &"\"".repeat(10_000));
    assert!(reply.encode().len() <= MAX_CONTROL_BYTES);
}

#[test]
fn packet_arrives_whole_with_its_fd() {
    let (ours, theirs) = ControlSocket::pair().unwrap();
    let theirs = ControlSocket::from(theirs);
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    ours.send(b"hello", Some(writer.as_fd())).unwrap();
    drop(writer);

    let Received::Packet(packet, Some(fd)) = theirs.receive(true).unwrap() else {
        panic!("no packet with fd")
    };

    assert_eq!(packet, b"hello");
    rustix::io::write(&fd, b"through").unwrap();
    drop(fd);
    let mut text = String::new();
    File::from(reader).read_to_string(&mut text).unwrap();
    assert_eq!(text, "through");
}

#[test]
fn request_with_an_fd_is_refused_and_closes_it() {
    let (ours, theirs) = ControlSocket::pair().unwrap();
    let theirs = ControlSocket::from(theirs);
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    ours.send(b"hello", Some(writer.as_fd())).unwrap();
    drop(writer);

    assert!(matches!(theirs.receive(false), Err(ControlError::TooLarge)));

    let mut nothing = String::new();
    File::from(reader).read_to_string(&mut nothing).unwrap();
    assert_eq!(nothing, "");
}

#[test]
fn packet_above_the_limit_is_an_error() {
    let (ours, theirs) = ControlSocket::pair().unwrap();
    assert!(matches!(
        ours.send(&[0; MAX_CONTROL_BYTES + 1], None),
        Err(ControlError::TooLarge)
    ));
    rustix::net::send(
        &theirs,
        &[b' '; MAX_CONTROL_BYTES + 1],
        rustix::net::SendFlags::empty(),
    )
    .unwrap();
    assert!(matches!(ours.receive(false), Err(ControlError::TooLarge)));
}

#[test]
fn peer_that_does_not_read_is_an_error_not_a_hang() {
    let (ours, _theirs) = ControlSocket::pair().unwrap();
    let failure = (0..100_000).find_map(|_| ours.send(&[b' '; 64], None).err());
    assert!(matches!(failure, Some(ControlError::Full)));
}

#[test]
fn empty_socket_and_closed_socket_are_told_apart() {
    let (ours, theirs) = ControlSocket::pair().unwrap();
    assert!(matches!(ours.receive(false), Ok(Received::Empty)));
    drop(theirs);
    assert!(matches!(ours.receive(false), Ok(Received::Closed)));
}
