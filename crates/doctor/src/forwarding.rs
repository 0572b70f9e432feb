//! Other programs' firewalls that drop what is forwarded: packets must pass every table, ours cannot overrule theirs.

/// Chains with a forward hook and `policy drop` in the output of `nft list ruleset`, as `family table chain`.
/// Tables of SoulBox (`sb…`) are not counted.
pub(crate) fn nft_drops(ruleset: &str) -> Vec<String> {
    let (mut table, mut chain, mut found) = ("", "", Vec::new());
    for line in ruleset.lines().map(str::trim) {
        if let Some(name) = line
            .strip_prefix("table ")
            .and_then(|rest| rest.strip_suffix(" {"))
        {
            table = name;
        } else if let Some(name) = line
            .strip_prefix("chain ")
            .and_then(|rest| rest.strip_suffix(" {"))
        {
            chain = name;
        } else if line.contains("hook forward") && line.contains("policy drop") {
            let ours = table
                .split(' ')
                .nth(1)
                .is_some_and(|name| name.starts_with("sb") || name.starts_with("soulbox"));
            if !ours {
                found.push(format!("{table} {chain}"));
            }
        }
    }
    found
}

/// Whether `iptables -S FORWARD` of the legacy kind, which nft does not show, drops by default.
pub(crate) fn iptables_drops(rules: &str) -> bool {
    rules.lines().any(|line| line.trim() == "-P FORWARD DROP")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_of_others_are_found() {
        let ruleset = "table ip filter {\n\tchain INPUT {\n\t\ttype filter hook input priority filter; policy drop;\n\t}\n\
            \tchain FORWARD {\n\t\ttype filter hook forward priority filter; policy drop;\n\t\tjump DOCKER\n\t}\n}\n\
            table inet sb1 {\n\tchain forward {\n\t\ttype filter hook forward priority filter; policy drop;\n\t}\n}\n\
            table inet firewalld {\n\tchain filter_FORWARD {\n\t\ttype filter hook forward priority filter + 10; policy accept;\n\t}\n}\n";
        assert_eq!(nft_drops(ruleset), ["ip filter FORWARD"]);
        assert!(nft_drops("").is_empty());
    }

    #[test]
    fn legacy() {
        assert!(iptables_drops(
            "-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n"
        ));
        assert!(!iptables_drops("-P FORWARD ACCEPT\n"));
    }
}
