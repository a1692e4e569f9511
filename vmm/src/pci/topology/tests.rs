use super::*;

fn place(bus: &str, slot: u8, function: u8, multifunction: bool) -> Place {
    Place {
        bus: bus.to_owned(),
        slot,
        function,
        multifunction,
    }
}

fn with_port() -> Topology<()> {
    let mut topology = Topology::new();
    topology
        .insert_port("pcie.1", &place("pcie.0", 1, 0, false), ())
        .unwrap();
    topology
}

fn refused(topology: &mut Topology<()>, id: &str, place: &Place) -> String {
    topology.insert(id, place, ()).unwrap_err().to_string()
}

#[test]
fn unknown_bus_is_named() {
    let text = refused(&mut with_port(), "net", &place("pcie.9", 0, 0, false));
    assert!(text.starts_with("Parent bus :pcie.9 not found"), "{text}");
}

#[test]
fn same_id_on_another_bus_is_refused() {
    let mut topology = with_port();
    topology
        .insert("net", &place("pcie.0", 3, 0, false), ())
        .unwrap();
    assert_eq!(
        refused(&mut topology, "net", &place("pcie.1", 0, 0, false)),
        "Device net is already attached"
    );
}

#[test]
fn occupied_place_names_its_owner() {
    let mut topology = with_port();
    let text = refused(&mut topology, "net", &place("pcie.0", 1, 0, false));
    assert!(
        text.starts_with("Location of the device net is same as one of the bus pcie.0"),
        "{text}"
    );
    assert!(text.ends_with("belongs to pcie.1"), "{text}");
}

#[test]
fn slot_behind_a_port_must_be_0() {
    let text = refused(&mut with_port(), "net", &place("pcie.1", 2, 0, false));
    assert!(
        text.starts_with("The slot number of the device attached to the root port must be 0"),
        "{text}"
    );
}

#[test]
fn port_behind_a_port_is_refused() {
    let refused = with_port()
        .insert_port("pcie.2", &place("pcie.1", 0, 0, false), ())
        .unwrap_err();
    assert_eq!(
        refused,
        PlaceError::PortBehindPort {
            id: "pcie.2".into()
        }
    );
}

#[test]
fn second_function_needs_multifunction_on_function_0() {
    let mut topology = with_port();
    topology
        .insert("a", &place("pcie.0", 3, 0, false), ())
        .unwrap();
    let text = refused(&mut topology, "b", &place("pcie.0", 3, 1, false));
    assert!(
        text.starts_with(
            "PCI: single function device can't be populated in bus pcie.0 function 3.1"
        ),
        "{text}"
    );
}

#[test]
fn function_0_that_comes_last_needs_multifunction() {
    let mut topology = with_port();
    topology
        .insert("b", &place("pcie.0", 3, 1, false), ())
        .unwrap();
    let text = refused(&mut topology, "a", &place("pcie.0", 3, 0, false));
    assert!(
        text.starts_with("PCI: 3.0 indicates single function, but 3.1 is already populated"),
        "{text}"
    );
    topology
        .insert("a", &place("pcie.0", 3, 0, true), ())
        .unwrap();
    assert_eq!(topology.check(), Ok(()));
}

#[test]
fn function_without_function_0_is_refused_at_the_end() {
    let mut topology = with_port();
    topology
        .insert("b", &place("pcie.1", 0, 1, false), ())
        .unwrap();
    assert!(matches!(
        topology.check(),
        Err(PlaceError::NoFunctionZero {
            slot: 0,
            function: 1,
            ..
        })
    ));
}

#[test]
fn slot_32_and_function_8_do_not_exist() {
    assert!(matches!(
        with_port().insert("a", &place("pcie.0", 32, 0, false), ()),
        Err(PlaceError::NoSlot { .. })
    ));
    assert!(matches!(
        with_port().insert("a", &place("pcie.0", 3, 8, false), ()),
        Err(PlaceError::NoSlot { .. })
    ));
}

#[test]
fn removed_place_and_id_are_free_again() {
    let mut topology = with_port();
    topology
        .insert("a", &place("pcie.1", 0, 0, false), ())
        .unwrap();
    assert_eq!(topology.remove("a"), Some(()));
    assert_eq!(topology.remove("a"), None);
    topology
        .insert("a", &place("pcie.1", 0, 0, false), ())
        .unwrap();
}
