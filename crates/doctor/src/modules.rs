//! Kernel modules that a sandbox has no use for and that exploits like: which of them could come into this kernel.
//!
//! The system-call filter of a sandbox closes the socket families that reach them. This is the second fence.

/// Code behind sockets and terminals that the kernel loads for whoever asks, each with local root exploits to its name.
pub(crate) const RISKY: [&str; 15] = [
    "esp4",
    "esp6",
    "ipcomp",
    "ipcomp6",
    "rxrpc",
    "af_alg",
    "algif_skcipher",
    "algif_aead",
    "algif_hash",
    "algif_rng",
    "n_hdlc",
    "n_gsm",
    "tipc",
    "dccp",
    "rds",
];

/// Where a module stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModuleState {
    /// This kernel does not have it.
    Absent,
    /// It is there and its loading is forbidden.
    Blocked,
    /// It is there and can be loaded.
    Loadable,
    /// It is loaded.
    Loaded,
    /// It is part of the kernel image and cannot be kept out.
    BuiltIn,
}

/// Texts that decide: `modules.dep` and `modules.builtin` of the running kernel, `/proc/modules`, all of modprobe.d.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ModuleTexts<'a> {
    pub(crate) dep: &'a str,
    pub(crate) builtin: &'a str,
    pub(crate) loaded: &'a str,
    pub(crate) modprobe: &'a str,
}

/// Finds where a module stands.
pub(crate) fn state(name: &str, texts: &ModuleTexts<'_>) -> ModuleState {
    let is_file = |line: &str| {
        let path = line.split(':').next().unwrap_or_default();
        let file = path.rsplit('/').next().unwrap_or_default();
        // Names in paths may have `-` where the kernel says `_`; files may be compressed.
        file.split(".ko")
            .next()
            .is_some_and(|stem| stem.replace('-', "_") == name)
            && file.contains(".ko")
    };
    let is_loaded = |line: &str| line.split(' ').next() == Some(name);
    if texts.loaded.lines().any(is_loaded) {
        ModuleState::Loaded
    } else if texts.builtin.lines().any(is_file) {
        ModuleState::BuiltIn
    } else if !texts.dep.lines().any(is_file) {
        ModuleState::Absent
    } else if texts.modprobe.lines().any(|line| blocks(line, name)) {
        ModuleState::Blocked
    } else {
        ModuleState::Loadable
    }
}

/// `blacklist name` keeps the kernel from loading it by alias, `install name /bin/false` keeps everybody (modprobe.d(5)).
fn blocks(line: &str, name: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    let same = |word: &str| word.replace('-', "_") == name;
    match words[..] {
        ["blacklist", module] => same(module),
        ["install", module, command, ..] => {
            same(module)
                && ["/bin/false", "/bin/true", "/usr/bin/false", "/usr/bin/true"].contains(&command)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states() {
        let texts = ModuleTexts {
            dep: "kernel/net/ipv4/esp4.ko.xz: kernel/net/xfrm/xfrm_algo.ko.xz\nkernel/net/rxrpc/rxrpc.ko:\nkernel/crypto/algif-hash.ko.zst:\nkernel/net/ipv6/esp6.ko:\n",
            builtin: "kernel/crypto/algif_aead.ko\n",
            loaded: "rxrpc 16384 0 - Live 0x0\nesp4x 1 0 - Live 0x0\n",
            modprobe: "# install esp4 /bin/false\nblacklist  algif-hash\ninstall esp6 /bin/false\ninstall esp4 /sbin/modprobe esp4\n",
        };
        let expected = [
            ("esp4", ModuleState::Loadable),
            ("esp6", ModuleState::Blocked),
            ("algif_hash", ModuleState::Blocked),
            ("algif_aead", ModuleState::BuiltIn),
            ("rxrpc", ModuleState::Loaded),
            ("ipcomp", ModuleState::Absent),
        ];
        for (name, state_wanted) in expected {
            assert_eq!(state(name, &texts), state_wanted, "{name}");
        }
    }
}
