//! Functions of sprig and Helm that are refused, and why. PURE.

const REFUSED: &[(&[&str], &str)] = &[
    (
        &["env", "expandenv"],
        "would show the operator's environment to whoever writes a template",
    ),
    (&["getHostByName"], "would ask the network"),
    (
        &[
            "now",
            "date",
            "dateInZone",
            "date_in_zone",
            "dateModify",
            "date_modify",
            "ago",
            "htmlDate",
            "htmlDateInZone",
            "toDate",
            "mustToDate",
            "mustDateModify",
            "must_date_modify",
            "unixEpoch",
        ],
        "depends on the time: the same template would render differently each time",
    ),
    (
        &[
            "randAlpha",
            "randAlphaNum",
            "randAscii",
            "randNumeric",
            "randBytes",
            "randInt",
            "uuidv4",
            "shuffle",
        ],
        "is random: the same template would render differently each time",
    ),
    (
        &[
            "genPrivateKey",
            "genCA",
            "genCAWithKey",
            "genSelfSignedCert",
            "genSelfSignedCertWithKey",
            "genSignedCert",
            "genSignedCertWithKey",
            "derivePassword",
            "buildCustomCert",
            "bcrypt",
            "htpasswd",
            "encryptAES",
            "decryptAES",
        ],
        "makes keys or secrets, which do not belong into a template",
    ),
    (
        &["tpl", "lookup", "toToml", "fromToml", "toYamlPretty"],
        "is not part of this template language (Helm has it)",
    ),
];

pub(super) fn why(name: &str) -> Option<&'static str> {
    let (_, why) = REFUSED.iter().find(|(names, _)| names.contains(&name))?;
    Some(why)
}
