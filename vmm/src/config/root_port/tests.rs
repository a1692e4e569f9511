use super::number_ports;
use crate::config::DeviceConfig;

fn port(text: &str) -> DeviceConfig {
    DeviceConfig::parse(&format!("pcie-root-port,bus=pcie.0,{text}")).unwrap()
}

fn numbers(devices: &[DeviceConfig]) -> Vec<u8> {
    let number = |device: &DeviceConfig| match device {
        DeviceConfig::RootPort(port) => Some(port.port),
        DeviceConfig::VfioPci(_) | DeviceConfig::VfioUserPci(_) => None,
    };
    devices.iter().filter_map(number).collect()
}

#[test]
fn ports_without_a_number_get_the_lowest_free_ones() {
    let mut devices = ["id=a,addr=1", "id=b,addr=2,port=1", "id=c,addr=3,port=0"].map(port);
    number_ports(&mut devices).unwrap();
    assert_eq!(numbers(&devices), [2, 1, 3]);
}

#[test]
fn number_given_twice_is_refused_by_the_name_of_the_other_port() {
    let mut devices = ["id=a,addr=1,port=0x7", "id=b,addr=2,port=7"].map(port);
    let error = number_ports(&mut devices).unwrap_err().to_string();
    assert!(
        error.starts_with("-device b: port=7 is the number of root port 'a'"),
        "{error}"
    );
}

#[test]
fn all_eight_functions_of_four_slots_are_32_ports() {
    let mut devices: Vec<DeviceConfig> = (0..32)
        .map(|n| {
            let (slot, function) = (1 + n / 8, n % 8);
            port(&format!(
                "id=p{n},addr={slot:#x}.{function},multifunction=on"
            ))
        })
        .collect();
    number_ports(&mut devices).unwrap();
    assert_eq!(numbers(&devices), (1..=32).collect::<Vec<u8>>());
    crate::config::topology::check(&devices).unwrap();
}

#[test]
fn reserve_beyond_its_limit_is_refused_with_the_limit() {
    let refused = |text: &str| {
        DeviceConfig::parse(&format!("pcie-root-port,id=p,bus=pcie.0,addr=1,{text}"))
            .unwrap_err()
            .to_string()
    };
    assert!(refused("mem-reserve=481M").contains("at most 491520 KiB"));
    assert!(refused("io-reserve=64K").contains("at most 32 KiB"));
    assert!(refused("pref64-reserve=2T").contains("at most 1073741824 KiB"));
}
