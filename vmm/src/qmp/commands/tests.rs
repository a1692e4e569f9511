use std::sync::Mutex;

use serde_json::Map;

use super::super::errors::Class;
use super::super::machine::Cpu;
use super::*;

/// A machine that notes what it was asked.
#[derive(Default)]
struct Noted(Mutex<Vec<String>>);

impl Noted {
    fn note(&self, what: &str) {
        self.0.lock().unwrap().push(what.to_owned());
    }
}

impl RunControl for Noted {
    fn state(&self) -> RunState {
        RunState::Running
    }
    fn stop(&self) -> Result<(), QmpError> {
        self.note("stop");
        Ok(())
    }
    fn resume(&self) -> Result<(), QmpError> {
        Ok(())
    }
    fn reset(&self) -> Result<After, QmpError> {
        Ok(Box::new(|| ()))
    }
    fn power_down(&self) -> Result<(), QmpError> {
        Ok(())
    }
    fn quit(&self) -> After {
        self.note("quit");
        Box::new(|| ())
    }
}

impl Inventory for Noted {
    fn name(&self) -> Option<String> {
        None
    }
    fn cpus(&self) -> Vec<Cpu> {
        vec![Cpu {
            index: 0,
            thread_id: 7,
        }]
    }
    fn memory_bytes(&self) -> u64 {
        512 << 20
    }
    fn kvm(&self) -> Value {
        json!({"enabled": true, "present": true, "memory-slots": 2, "interrupt-routes": 0})
    }

    fn pci(&self) -> Value {
        json!([])
    }
    fn slots(&self) -> Value {
        json!([])
    }
    fn vfio_user(&self) -> Value {
        json!([])
    }
    fn sandbox(&self) -> Value {
        json!({})
    }
}

impl Devices for Noted {
    fn add(&self, properties: Map<String, Value>) -> Result<(), QmpError> {
        self.note(&format!("add {}", properties["id"]));
        Ok(())
    }
    fn remove(&self, id: &str, force: bool) -> Result<After, QmpError> {
        self.note(&format!("remove {id} {force}"));
        Err(QmpError::unknown_device(id))
    }
}

impl BootControl for Noted {
    fn choose(&self, request: BootRequest) -> Result<(), QmpError> {
        self.note(&format!("boot {request:?}"));
        Ok(())
    }
    fn describe(&self) -> Value {
        let boot = json!({"kernel": "/boot/vmlinuz", "append": ""});
        json!({"in-force": boot.clone(), "next": boot})
    }
}

fn execute(machine: &Arc<Noted>, text: &str) -> Result<Value, QmpError> {
    let (control, inventory) = (Arc::clone(machine), Arc::clone(machine));
    let (devices, boot) = (Arc::clone(machine), Arc::clone(machine));
    run(
        &Context {
            control,
            inventory,
            devices,
            boot,
        },
        Request::parse(text.as_bytes()).unwrap(),
    )
    .map(|outcome| outcome.value)
}

#[test]
fn unknown_command_is_command_not_found() {
    let error = execute(&Arc::default(), r#"{"execute":"foo"}"#).unwrap_err();
    assert_eq!(error.class, Class::CommandNotFound);
    assert_eq!(error.desc, "The command foo has not been found");
}

#[test]
fn quit_with_an_unknown_argument_is_refused_and_does_not_quit() {
    let machine = Arc::default();
    let error = execute(&machine, r#"{"execute":"quit","arguments":{"now":true}}"#).unwrap_err();
    assert_eq!(error.desc, "Parameter 'now' is unexpected");
    assert!(machine.0.lock().unwrap().is_empty());
}

#[test]
fn set_boot_files_acts_on_what_is_right_and_on_nothing_else() {
    for (arguments, words) in [
        (r#"{}"#, "Parameter 'kernel' is missing"),
        (r#"{"kernel":5}"#, "type for 'kernel'"),
        (r#"{"kernel":"/k","initrd":null}"#, "type for 'initrd'"),
        (r#"{"kernel":"/k","append":["a"]}"#, "type for 'append'"),
        (r#"{"kernel":"/k","dtb":"/d"}"#, "'dtb' is unexpected"),
    ] {
        let machine = Arc::default();
        let text = format!(r#"{{"execute":"set-boot-files","arguments":{arguments}}}"#);
        let error = execute(&machine, &text).unwrap_err();
        assert!(error.desc.contains(words), "{}", error.desc);
        assert!(machine.0.lock().unwrap().is_empty(), "{arguments}");
    }
    let machine = Arc::default();
    let text = r#"{"execute":"set-boot-files","arguments":{"kernel":"/k","append":"quiet"}}"#;
    execute(&machine, text).unwrap();
    let expected =
        r#"boot BootRequest { kernel: "/k", initrd: None, append: Some("quiet") }"#.to_owned();
    assert_eq!(*machine.0.lock().unwrap(), [expected]);
}

#[test]
fn device_del_of_an_unknown_id_is_device_not_found() {
    let error = execute(
        &Arc::default(),
        r#"{"execute":"device_del","arguments":{"id":"x"}}"#,
    )
    .unwrap_err();
    assert_eq!(error.class, Class::DeviceNotFound);
}

#[test]
fn device_del_without_id_names_the_parameter() {
    let error = execute(&Arc::default(), r#"{"execute":"device_del"}"#).unwrap_err();
    assert_eq!(error.desc, "Parameter 'id' is missing");
}

#[test]
fn device_del_with_a_number_as_id_names_the_type() {
    let error = execute(
        &Arc::default(),
        r#"{"execute":"device_del","arguments":{"id":1}}"#,
    )
    .unwrap_err();
    assert_eq!(
        error.desc,
        "Invalid parameter type for 'id', expected: string"
    );
}

#[test]
fn capability_that_is_not_offered_is_refused() {
    let text = r#"{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}"#;
    assert_eq!(
        execute(&Arc::default(), text).unwrap_err().class,
        Class::GenericError
    );
}

#[test]
fn query_status_answers_running() {
    let status = execute(&Arc::default(), r#"{"execute":"query-status"}"#).unwrap();
    assert_eq!(status, json!({"running": true, "status": "running"}));
}

#[test]
fn every_command_is_listed_and_described() {
    let listed = execute(&Arc::default(), r#"{"execute":"query-commands"}"#).unwrap();
    let described = execute(&Arc::default(), r#"{"execute":"query-qmp-schema"}"#).unwrap();
    let described: Vec<&Value> = described
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["meta-type"] == "command")
        .collect();
    assert_eq!(listed.as_array().unwrap().len(), COMMANDS.len());
    assert_eq!(described.len(), COMMANDS.len());
}

#[test]
fn answers_have_the_shape_that_the_schema_says() {
    for command in COMMANDS
        .iter()
        .filter(|command| command.arguments == NOTHING && command.name.starts_with("query-"))
    {
        let text = format!(r#"{{"execute":"{}"}}"#, command.name);
        let answer = execute(&Arc::default(), &text).unwrap();
        command.answer.check(&answer).unwrap();
    }
    for driver in ["pcie-root-port", "vfio-pci", "vfio-user-pci"] {
        let answer = properties(driver).unwrap();
        shapes::PROPERTIES.check(&answer).unwrap();
        let names: Vec<&Value> = answer
            .as_array()
            .unwrap()
            .iter()
            .map(|property| &property["name"])
            .collect();
        assert!(names.contains(&&json!("addr")), "{driver}: {names:?}");
    }
}

fn properties(driver: &str) -> Result<Value, QmpError> {
    let text =
        format!(r#"{{"execute":"device-list-properties","arguments":{{"typename":"{driver}"}}}}"#);
    execute(&Arc::default(), &text)
}

#[test]
fn properties_of_an_unknown_device_are_device_not_found() {
    let error = properties("e1000").unwrap_err();
    assert_eq!(error.class, Class::DeviceNotFound);
    assert_eq!(error.desc, "Device 'e1000' not found");
}
