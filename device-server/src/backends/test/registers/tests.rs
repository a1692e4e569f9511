use super::*;

fn read_u32(registers: &Registers, offset: u64) -> u32 {
    let mut data = [0; 4];
    registers.read(offset, &mut data);
    u32::from_le_bytes(data)
}

#[test]
fn accesses_of_any_width_and_alignment_give_the_bytes() {
    let mut registers = Registers::new(false);
    assert!(registers.write(8, &0x4433_2211u32.to_le_bytes()).is_empty());
    for width in [1usize, 2, 3, 5, 7, 8, 16] {
        let mut data = vec![0xee; width];
        registers.read(9, &mut data);
        let expected = [0x22, 0x33, 0x44, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(data, expected[..width]);
    }
    let mut far = [0xee; 4];
    registers.read(0xffc, &mut far);
    assert_eq!(far, [0; 4]);
}

#[test]
fn partial_write_keeps_the_other_bytes() {
    let mut registers = Registers::new(false);
    registers.write(8, &[1, 2, 3, 4]);
    registers.write(9, &[0xaa, 0xbb]);
    assert_eq!(read_u32(&registers, 8).to_le_bytes(), [1, 0xaa, 0xbb, 4]);
}

#[test]
fn one_write_over_the_whole_job_starts_it_once() {
    let mut registers = Registers::new(false);
    let mut job = Vec::new();
    job.extend_from_slice(&0x1_0000_2000u64.to_le_bytes());
    job.extend_from_slice(&0x3000u64.to_le_bytes());
    job.extend_from_slice(&64u32.to_le_bytes());
    job.extend_from_slice(&1u32.to_le_bytes());
    let expected = DmaJob {
        command: DmaCommand::COPY,
        source: Iova(0x1_0000_2000),
        destination: Iova(0x3000),
        len_bytes: 64,
        pattern: 0,
    };
    assert_eq!(registers.write(0x20, &job), [Action::RunDma(expected)]);
}

#[test]
fn finished_job_shows_its_errno_or_result_and_names_the_interrupt() {
    let mut registers = Registers::new(false);
    registers.write(0x40, &0x0002_0005u32.to_le_bytes());
    registers.write(0x34, &0x8000_0003u32.to_le_bytes());
    assert_eq!(registers.finish_dma(Ok(77)), Some((IrqIndex::MSIX, 5)));
    assert_eq!(
        (read_u32(&registers, 0x38), read_u32(&registers, 0x3c)),
        (1, 77)
    );
    registers.write(0x34, &3u32.to_le_bytes());
    assert_eq!(registers.finish_dma(Err(Errno::FAULT)), None);
    assert_eq!(read_u32(&registers, 0x38), 2 | (14 << 16));
}

#[test]
fn reset_clears_all_but_the_counters() {
    let mut registers = Registers::new(true);
    registers.write(8, &[9; 4]);
    registers.count_mapped_access();
    registers.reset();
    assert_eq!(read_u32(&registers, 8), 0);
    assert_eq!(
        (read_u32(&registers, 0x18), read_u32(&registers, 0x1c)),
        (1, 1)
    );
    assert_eq!(read_u32(&registers, 0x0c), 1);
}
