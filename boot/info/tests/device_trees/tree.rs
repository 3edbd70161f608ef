//! Device trees built by hand (Devicetree Specification 0.4, chapter 5).
use boot_info::{BootError, BootInfo};

/// A tree built by hand: (tokens, strings).
#[derive(Default)]
pub(crate) struct Builder {
    pub(crate) structs: Vec<u8>,
    pub(crate) strings: Vec<u8>,
    pub(crate) reserved: Vec<(u64, u64)>,
}

impl Builder {
    pub(crate) fn word(mut self, word: u32) -> Self {
        self.structs.extend(word.to_be_bytes());
        self
    }
    pub(crate) fn padded(mut self, bytes: &[u8]) -> Self {
        self.structs.extend(bytes);
        self.structs
            .resize(self.structs.len().next_multiple_of(4), 0);
        self
    }
    pub(crate) fn begin(self, name: &str) -> Self {
        self.word(1).padded(format!("{name}\0").as_bytes())
    }
    pub(crate) fn prop(mut self, name: &str, value: &[u8]) -> Self {
        let at = self.strings.len() as u32;
        self.strings.extend(format!("{name}\0").bytes());
        self.word(3).word(value.len() as u32).word(at).padded(value)
    }
    pub(crate) fn cells(self, name: &str, cells: &[u32]) -> Self {
        let raw: Vec<u8> = cells.iter().flat_map(|cell| cell.to_be_bytes()).collect();
        self.prop(name, &raw)
    }
    pub(crate) fn end(self) -> Self {
        self.word(2)
    }
    /// Memory at 1 GiB, one core, and a GICv3 at the usual place.
    pub(crate) fn usual(self) -> Self {
        self.usual_without_gic()
            .begin("interrupt-controller@8000000")
            .prop("compatible", b"arm,gic-v3\0")
            .cells(
                "reg",
                &[0, 0x800_0000, 0, 0x1_0000, 0, 0x80a_0000, 0, 0x2_0000],
            )
            .end()
    }
    pub(crate) fn usual_without_gic(self) -> Self {
        self.memory()
            .begin("cpus")
            .cells("#address-cells", &[2])
            .cells("#size-cells", &[0])
            .begin("cpu@100000000")
            .cells("reg", &[1, 0])
            .end()
            .end()
    }
    pub(crate) fn usual_without_cpus(self) -> Self {
        self.memory()
            .begin("interrupt-controller@8000000")
            .prop("compatible", b"arm,gic-v3\0")
            .cells(
                "reg",
                &[0, 0x800_0000, 0, 0x1_0000, 0, 0x80a_0000, 0, 0x2_0000],
            )
            .end()
    }
    fn memory(self) -> Self {
        self.cells("#address-cells", &[2])
            .cells("#size-cells", &[2])
            .begin("memory@40000000")
            .prop("device_type", b"memory\0")
            .cells("reg", &[0, 0x4000_0000, 0, 0x4000_0000])
            .end()
    }
    pub(crate) fn blob(self) -> Vec<u8> {
        let mut body = Vec::new();
        for (pa, bytes) in self.reserved {
            body.extend(pa.to_be_bytes());
            body.extend(bytes.to_be_bytes());
        }
        body.extend([0; 16]);
        let structs_at = 40 + body.len() as u32;
        body.extend(&self.structs);
        let strings_at = 40 + body.len() as u32;
        body.extend(&self.strings);
        let header: [u32; 10] = [
            0xd00d_feed,
            40 + body.len() as u32,
            structs_at,
            strings_at,
            40,
            17,
            16,
            0,
            self.strings.len() as u32,
            self.structs.len() as u32,
        ];
        let mut blob: Vec<u8> = header.iter().flat_map(|word| word.to_be_bytes()).collect();
        blob.extend(body);
        blob
    }
    pub(crate) fn read(self) -> Result<BootInfo, BootError> {
        BootInfo::from_fdt(&self.word(9).blob())
    }
}

/// A tree with an empty root node, still open.
pub(crate) fn tree() -> Builder {
    Builder::default().begin("")
}
