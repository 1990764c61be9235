//! From relocatable ELF objects to one position-independent image: text and read-only data, relocated against each other.
//!
//! Nothing is left for a loader to do but to map the bytes. What would need one (an external symbol, an absolute address,
//! writable data) is an error.

/// Code and read-only data that run wherever they are mapped, aligned to 64 bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    pub bytes: Vec<u8>,
    /// In the order in which the kernels were given.
    pub entries: Vec<Entry>,
}

/// Where a kernel starts.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub name: String,
    pub offset: u64,
}

const SHT_SYMTAB: u32 = 2;
const SHT_RELA: u32 = 4;
const SHT_NOBITS: u32 = 8;
const SHF_WRITE: u64 = 1;
const SHF_ALLOC: u64 = 2;
const SHN_ABS: usize = 0xfff1;

/// The image so far.
#[derive(Default)]
pub(super) struct Layout {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

struct Section {
    name: String,
    kind: u32,
    flags: u64,
    offset: usize,
    size: usize,
    link: usize,
    info: usize,
    align: usize,
}

struct Symbol {
    name: String,
    section: usize,
    value: u64,
    global: bool,
}

/// A little-endian number of `N` bytes at `at`.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Result<u64, String> {
    let field = bytes.get(at..).and_then(|b| b.get(..N)).ok_or("it is truncated")?;
    Ok(field.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b)))
}

fn string(bytes: &[u8], table: &Section, at: u64) -> Result<String, String> {
    let start = table.offset + at as usize;
    let tail = bytes.get(start..table.offset + table.size).ok_or("a name lies outside its table")?;
    let end = tail.iter().position(|&b| b == 0).ok_or("a name does not end")?;
    Ok(String::from_utf8_lossy(&tail[..end]).into_owned())
}

fn sections(object: &[u8]) -> Result<Vec<Section>, String> {
    if object.get(..6) != Some(b"\x7fELF\x02\x01") {
        return Err("it is not a 64-bit ELF object".into());
    }
    let (start, size, count) =
        (number::<8>(object, 40)? as usize, number::<2>(object, 58)? as usize, number::<2>(object, 60)? as usize);
    let names = number::<2>(object, 62)? as usize;
    let header = |i: usize| -> Result<(u64, Section), String> {
        let at = start + i * size;
        let word = |field: usize| number::<8>(object, at + field);
        let section = Section {
            name: String::new(),
            kind: number::<4>(object, at + 4)? as u32,
            flags: word(8)?,
            offset: word(24)? as usize,
            size: word(32)? as usize,
            link: number::<4>(object, at + 40)? as usize,
            info: number::<4>(object, at + 44)? as usize,
            align: word(48)? as usize,
        };
        Ok((number::<4>(object, at)?, section))
    };
    let headers = (0..count).map(header).collect::<Result<Vec<_>, _>>()?;
    let table = &headers.get(names).ok_or("it has no section names")?.1;
    let named = headers.iter().map(|(name, _)| string(object, table, *name)).collect::<Result<Vec<_>, _>>()?;
    Ok(headers.into_iter().zip(named).map(|((_, section), name)| Section { name, ..section }).collect())
}

fn symbols(object: &[u8], sections: &[Section]) -> Result<Vec<Symbol>, String> {
    let Some(table) = sections.iter().find(|s| s.kind == SHT_SYMTAB) else { return Ok(Vec::new()) };
    let strings = sections.get(table.link).ok_or("its symbols have no names")?;
    let symbol = |i: usize| {
        let at = table.offset + i * 24;
        Ok(Symbol {
            name: string(object, strings, number::<4>(object, at)?)?,
            section: number::<2>(object, at + 6)? as usize,
            value: number::<8>(object, at + 8)?,
            global: number::<1>(object, at + 4)? >> 4 != 0,
        })
    };
    (0..table.size / 24).map(symbol).collect()
}

impl Layout {
    /// Appends an object's sections and relocates them. `entries` are the symbols of kernels, with the kernels' names.
    pub(super) fn add(&mut self, object: &[u8], entries: &[(String, &str)]) -> Result<(), String> {
        let sections = sections(object)?;
        let symbols = symbols(object, &sections)?;
        let mut places: Vec<Option<u64>> = Vec::new();
        for section in &sections {
            let kept = section.flags & SHF_ALLOC != 0 && section.size > 0 && !section.name.starts_with(".eh_frame");
            places.push(if kept { Some(self.place(object, section)?) } else { None });
        }
        for (symbol, name) in entries {
            let missing = || format!("`{symbol}` is not in it");
            let at = symbols.iter().find(|s| s.global && s.name == *symbol).ok_or_else(missing)?;
            let place = places.get(at.section).copied().flatten().ok_or_else(missing)?;
            self.entries.push(Entry { name: (*name).into(), offset: place + at.value });
        }
        for section in sections.iter().filter(|s| s.kind == SHT_RELA) {
            let Some(Some(place)) = places.get(section.info) else { continue };
            for i in 0..section.size / 24 {
                let at = section.offset + i * 24;
                let info = number::<8>(object, at + 8)?;
                let symbol = symbols.get((info >> 32) as usize).ok_or("a relocation has no symbol")?;
                let target = match places.get(symbol.section) {
                    Some(Some(start)) if symbol.section != 0 => start + symbol.value,
                    _ if symbol.section == SHN_ABS => return Err(format!("`{}` is an absolute address", symbol.name)),
                    _ => return Err(format!("`{}` is not defined in it; kernels call nothing", symbol.name)),
                };
                let (from, addend) = (place + number::<8>(object, at)?, number::<8>(object, at + 16)? as i64);
                self.relocate(info as u32, from as usize, target as i64 + addend, &symbol.name)?;
            }
        }
        Ok(())
    }

    /// Copies a section to the end of the image.
    fn place(&mut self, object: &[u8], section: &Section) -> Result<u64, String> {
        if section.flags & SHF_WRITE != 0 || section.kind == SHT_NOBITS {
            return Err(format!("section {} is writable", section.name));
        }
        let content = object.get(section.offset..).and_then(|b| b.get(..section.size)).ok_or("it is truncated")?;
        self.bytes.resize(self.bytes.len().next_multiple_of(section.align.max(16)), 0xcc);
        let start = self.bytes.len() as u64;
        self.bytes.extend(content);
        Ok(start)
    }

    /// Makes the field at `from` refer to `target`, both offsets in the image.
    fn relocate(&mut self, kind: u32, from: usize, target: i64, name: &str) -> Result<(), String> {
        let distance = target - from as i64;
        match kind {
            // R_X86_64_PC32, R_X86_64_PLT32
            2 | 4 => {}
            // R_X86_64_REX_GOTPCRELX: a load of an address from a table becomes the address itself, `mov` `lea`.
            42 if self.bytes.get(from.wrapping_sub(2)) == Some(&0x8b) => self.bytes[from - 2] = 0x8d,
            _ => return Err(format!("relocation {kind} against `{name}` is not position independent")),
        }
        let value = i32::try_from(distance).map_err(|_| format!("`{name}` is too far away"))?;
        let field = self.bytes.get_mut(from..from + 4).ok_or("a relocation lies outside its section")?;
        field.copy_from_slice(&value.to_le_bytes());
        Ok(())
    }

    pub(super) fn finish(self) -> Image {
        Image { bytes: self.bytes, entries: self.entries }
    }
}
