//! The configuration: files and variables as administrators write them, and what they are told.

use std::{path::PathBuf, process::Command};

use conduit::config::{ByteSize, Config, MediaScope, Registration, example};
use tempfile::TempDir;

use crate::common::generated::assert_file;

/// What a file with `text` and the variables give: the configuration and the warnings, or the error.
fn load_with(text: &str, variables: &[(&str, &str)]) -> Result<(Config, Vec<String>), String> {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("conduit.toml");
    std::fs::write(&file, text).unwrap();
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let shorten = |message: String| message.replace(&file.display().to_string(), "FILE");
    Config::load(Some(file.clone()), variables)
        .map(|(config, warnings)| (config, warnings.into_iter().map(shorten).collect()))
        .map_err(|error| shorten(error.to_string()))
}

/// The same with the two options that a file must have.
fn load(options: &str) -> Result<(Config, Vec<String>), String> {
    load_with(&format!("server_name = \"example.org\"\ndatabase_path = \"/nonexistent\"\n{options}"), &[])
}

fn load_environment(variables: &[(&str, &str)]) -> Result<(Config, Vec<String>), String> {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::load(None, variables).map_err(|error| error.to_string())
}

fn error(options: &str) -> String {
    load(options).expect_err(options)
}

fn warnings(options: &str) -> Vec<String> {
    load(options).expect(options).1
}

/// The lines of the example that set an option, with the `#` removed.
fn uncommented() -> String {
    let is_option =
        |line: &str| line.strip_prefix('#').is_some_and(|rest| rest.starts_with(|c: char| c.is_lowercase()));
    let lines = example();
    let lines = lines.lines().map(|line| if is_option(line) { &line[1..] } else { line });
    lines.fold(String::new(), |text, line| text + line + "\n")
}

#[test]
fn example_is_what_the_code_says() {
    assert_file("conduit-example.toml", &example());
}

#[test]
fn example_shows_the_defaults() {
    let (config, warnings) =
        load_with(&example(), &[("CONDUIT_SERVER_NAME", "localhost"), ("CONDUIT_DATABASE_PATH", "./data")]).unwrap();
    assert_eq!(warnings, [""; 0]);
    assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));

    // With each option uncommented, only those change that are not set by default.
    let text: String = uncommented()
        .lines()
        .scan(false, |unset, line| {
            let keep = !std::mem::replace(unset, line == "# Not set. For example:");
            Some(if keep { format!("{line}\n") } else { String::new() })
        })
        .collect();
    let (config, warnings) = load_with(&text, &[]).unwrap();
    assert_eq!(warnings, [""; 0]);
    assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
}

#[test]
fn example_values_are_valid() {
    // One proxy excludes the other, and the rest of what is said is about registration and the emergency password.
    let (config, warnings) = load_with(&uncommented(), &[]).unwrap();
    assert!(config.turn.secret.is_some() && config.tls.key.is_some() && config.unix_socket_path.is_some());
    assert!(warnings.iter().all(|warning| !warning.contains("known")), "{warnings:?}");
}

#[test]
fn without_file_and_variables_it_is_a_server_to_try_out() {
    for variables in [&[][..], &[("CONDUIT_CONFIG", "")], &[("PATH", "/bin"), ("CONDUIT_PORT", "")]] {
        let (config, warnings) = load_environment(variables).unwrap();
        assert_eq!(config.server_name, "localhost");
        assert_eq!(config.database_path, PathBuf::from("./data"));
        assert_eq!(config.address.iter().map(ToString::to_string).collect::<Vec<_>>(), ["127.0.0.1", "::1"]);
        assert_eq!(config.port, [6167]);
        assert_eq!(config.registration(), Registration::Closed);
        assert_eq!(warnings, [""; 0]);
    }
}

#[test]
fn a_file_must_say_who_the_server_is_and_where_its_data_lies() {
    assert_eq!(
        load_with("[global]\n", &[]).unwrap_err(),
        "FILE: server_name is missing: set it to the name of your server"
    );
    assert_eq!(
        load_with("[global]\nserver_name = \"example.org\"\n", &[]).unwrap_err(),
        "FILE: database_path is missing: set it to where data is kept"
    );
    load_with("", &[("CONDUIT_SERVER_NAME", "example.org"), ("CONDUIT_DATABASE_PATH", "/data")]).unwrap();
}

#[test]
fn the_argument_goes_before_the_variable() {
    let directory = TempDir::new().unwrap();
    let write = |name: &str, port: u16| {
        let file = directory.path().join(name);
        let text =
            format!("[global]\nserver_name = \"example.org\"\ndatabase_path = \"/nonexistent\"\nport = {port}\n");
        std::fs::write(&file, text).unwrap();
        file
    };
    let (argument, variable) = (write("argument.toml", 1), write("variable.toml", 2));
    let environment = || std::iter::once(("CONDUIT_CONFIG".to_owned(), variable.display().to_string()));
    assert_eq!(Config::load(Some(argument), environment()).unwrap().0.port, [1]);
    assert_eq!(Config::load(None, environment()).unwrap().0.port, [2]);
    let missing = Config::load(Some("/nonexistent/conduit.toml".into()), environment()).unwrap_err().to_string();
    assert!(missing.starts_with("cannot read the configuration file /nonexistent/conduit.toml: "), "{missing}");
}

/// What the module of NixOS writes by itself.
#[test]
fn nixos() {
    let (config, warnings) = load_with(
        r#"
            [global]
            address = "::1"
            allow_check_for_updates = false
            allow_encryption = true
            allow_federation = true
            allow_registration = false
            database_backend = "sqlite"
            database_path = "/var/lib/matrix-conduit/"
            max_request_size = 20000000
            port = 6167
            server_name = "example.com"
            trusted_servers = ["matrix.org"]
        "#,
        &[("CONDUIT_JWT_SECRET", "xyz"), ("CONDUIT_TURN_SECRET", "12_3")],
    )
    .unwrap();
    assert_eq!(config.address.len(), 1);
    assert_eq!(config.max_request_size, ByteSize(20_000_000));
    assert_eq!(config.jwt_secret.unwrap().expose(), "xyz");
    assert_eq!(config.turn.secret.unwrap().expose(), "12_3");
    assert_eq!(warnings, ["database_backend asks for SQLite; RocksDB is used, as there is no SQLite database."]);
}

/// Every key of Conduit is understood, or named in one warning with the reason.
#[test]
fn keys_of_conduit() {
    let (config, warnings) = load(
        r#"
            allow_jaeger = false
            allow_unstable_room_versions = false
            cleanup_second_interval = 60
            conduit_cache_capacity_modifier = 1.0
            db_cache_capacity_mb = 300.0
            default_room_version = "10"
            emergency_password = ""
            enable_lightning_bolt = true
            ignored_keys = [{ key = "l/O9hxMVKB6Lg+3Hqf0FQQZhVESQcMzbPN1Cz2nM3og" }]
            ip_address_detection = { header = "X-Real-IP" }
            max_concurrent_requests = 100
            max_fetch_prev_events = 100
            openid_token_ttl = 3600
            pdu_cache_capacity = 150_000
            proxy = "none"
            rocksdb_max_open_files = 1000
            tracing_flame = true
            turn_secret = ""
            turn_username = "user"
            turn_password = "password"
            turn_uris = ["turn:example.org"]
            turn_ttl = 86400
            tls = { certs = "a", key = "b" }
            well_known = { client = "https://matrix.example.org/", server = "matrix.example.org:443" }

            [media]
            backend = "filesystem"
            path = "/srv/media"
            directory_structure = { depth = 4, length = 2 }
            [[media.retention]]
            space = "40G"
            [[media.retention]]
            scope = "remote"
            accessed = "30d"
            created = "90days"
            [[media.retention]]
            scope = "local"
            accessed = "1y"

            [rate_limiting.client.global]
            login = { per_hour = 10, burst_capacity = 10 }
        "#,
    )
    .unwrap();
    assert!(config.turn.secret.is_none() && config.emergency_password.is_none());
    assert_eq!(config.turn.password.as_ref().unwrap().expose(), "password");
    assert_eq!(config.turn.uris, ["turn:example.org"]);
    assert_eq!(config.well_known_client(), "https://matrix.example.org");
    assert_eq!(config.media_path(), PathBuf::from("/srv/media"));
    assert_eq!(config.media.total_space(), Some(ByteSize(40_000_000_000)));
    assert_eq!(config.media.limits(MediaScope::Thumbnail).accessed, None);
    let keys: Vec<_> = warnings.iter().map(|warning| warning.split(" has no effect").next().unwrap()).collect();
    let expected = [
        "cleanup_second_interval",
        "conduit_cache_capacity_modifier",
        "db_cache_capacity_mb",
        "max_fetch_prev_events",
        "media.directory_structure",
        "pdu_cache_capacity",
        "rate_limiting",
        "rocksdb_max_open_files",
        "tracing_flame",
    ];
    assert_eq!(keys, expected.map(|key| format!("FILE: {key}")));
}

#[test]
fn proxies() {
    let (config, _) =
        load("[proxy]\n[[proxy.by_domain]]\nurl = \"socks5h://u:p@localhost:9050\"\ninclude = [\"*.onion\"]").unwrap();
    assert_eq!(config.proxy.by_domain[0].url.expose(), "socks5h://u:p@localhost:9050");
    assert!(!format!("{config:?}").contains("u:p") && !config.effective().contains("u:p"));
    let (config, _) = load("[proxy.global]\nurl = \"http://localhost:1\"").unwrap();
    assert_eq!(config.proxy.global.url.unwrap().expose(), "http://localhost:1");
}

#[test]
fn defaults_that_depend_on_other_options() {
    let (config, _) = load("max_request_size = \"1.5 MiB\"").unwrap();
    assert_eq!(config.max_upload_size(), 1_572_864);
    assert_eq!(config.media_path(), PathBuf::from("/nonexistent/media"));
    assert_eq!(config.well_known_client(), "https://example.org");
    assert_eq!(config.well_known_server(), "example.org:443");
    assert!((64 << 20..=1 << 30).contains(&config.memory_budget()));
    assert_eq!(load("memory_budget = \"256MB\"").unwrap().0.memory_budget(), 256_000_000);
}

#[test]
fn variables_are_toml_or_text() {
    let (config, warnings) = load_environment(&[
        ("CONDUIT_SERVER_NAME", "example.org"),
        ("conduit_Port", "[8008, 8_448]"),
        ("CONDUIT_ADDRESS", "0.0.0.0"),
        ("CONDUIT_MAX_REQUEST_SIZE", "20_000_000"),
        ("CONDUIT_ALLOW_REGISTRATION", "'true'"),
        ("CONDUIT_REGISTRATION_TOKEN", "2024-01-01"),
        ("CONDUIT_TRUSTED_SERVERS", "[\"a.org\", 'b.org']"),
        ("CONDUIT_DEFAULT_ROOM_VERSION", "11"),
        ("CONDUIT_WELL_KNOWN_SUPPORT_EMAIL", "\"admin@example.org\""),
        ("CONDUIT_RATE_LIMITS", "false"),
        ("CONDUIT_TURN", "{ uris = [\"turn:a\"], secret = \"s\" }"),
        ("CONDUIT_CLEANUP_SECOND_INTERVAL", "60"),
        ("CONDUIT_ALOW_FEDERATION", "false"),
    ])
    .unwrap();
    assert_eq!(config.port, [8008, 8448]);
    assert_eq!(config.address[0].to_string(), "0.0.0.0");
    assert_eq!(config.max_request_size, ByteSize(20_000_000));
    assert_eq!(config.registration(), Registration::Token);
    assert!(config.registration_token.unwrap().matches("2024-01-01"));
    assert_eq!(config.trusted_servers, ["a.org", "b.org"]);
    assert_eq!(config.default_room_version.as_str(), "11");
    assert_eq!(config.well_known.support.email.unwrap(), "admin@example.org");
    assert!(!config.rate_limits.enabled);
    assert_eq!(config.turn.secret.unwrap().expose(), "s");
    assert_eq!(
        warnings,
        [
            "CONDUIT_ALOW_FEDERATION is not known and has no effect. Did you mean CONDUIT_ALLOW_FEDERATION?",
            "CONDUIT_CLEANUP_SECOND_INTERVAL has no effect: the database cleans up by itself.",
        ]
    );
    let wrong = load_environment(&[("CONDUIT_PORT", "abc")]).unwrap_err();
    assert_eq!(wrong, "CONDUIT_PORT: expected a whole number from 0 to 65535, found the text \"abc\"");
    let options = "server_name = \"example.org\"\ndatabase_path = \"/nonexistent\"\nturn_secret = \"file\"";
    let (config, _) = load_with(options, &[("CONDUIT_TURN_SECRET", "variable")]).unwrap();
    assert_eq!(config.turn.secret.unwrap().expose(), "variable");
}

#[test]
fn unknown_keys_are_named_with_the_nearest_known_one() {
    assert_eq!(
        warnings("alow_registration = true"),
        ["FILE: alow_registration is not known and has no effect. Did you mean allow_registration?"]
    );
    assert_eq!(
        warnings("[well_known]\nclint = \"x\""),
        ["FILE: well_known.clint is not known and has no effect. Did you mean client?"]
    );
    assert_eq!(warnings("[something]\nelse = 1"), ["FILE: something is not known and has no effect."]);
}

#[test]
fn wrong_values_are_explained() {
    for (options, expected) in [
        ("port = \"abc\"", "FILE: port: expected a whole number from 0 to 65535, found the text \"abc\""),
        ("port = 70000", "FILE: port: expected a whole number from 0 to 65535, found the number 70000"),
        ("port = []", "FILE: port: there must be a port to listen on, unless address is an empty list"),
        (
            "address = [\"localhost\"]",
            "FILE: address: expected an IP address such as \"127.0.0.1\" or \"::1\", found the text \"localhost\"",
        ),
        ("allow_registration = 1", "FILE: allow_registration: expected true or false, found the number 1"),
        (
            "max_request_size = \"20 apples\"",
            "FILE: max_request_size: expected a number of bytes or a size such as \"256MB\", found the text \"20 apples\"",
        ),
        (
            "[turn]\nttl = \"soon\"",
            "FILE: turn.ttl: expected a number of seconds or a time such as \"12h\" or \"30d\", found the text \"soon\"",
        ),
        ("turn = 3", "FILE: turn: expected a table of options, found the number 3"),
        ("turn_ttl = 1\nturn = { ttl = 1 }", "FILE: turn_ttl: turn.ttl is given twice"),
        (
            "default_room_version = \"99\"",
            "FILE: default_room_version: expected a room version from \"1\" to \"12\", found the text \"99\"",
        ),
        ("jwt_secret = 12345", "FILE: jwt_secret: expected a text in quotes"),
        (
            "unix_socket_perms = 0o660",
            "FILE: unix_socket_perms: expected permissions such as \"0660\", in which the owner can read and write, \
             found the number 432",
        ),
        ("[tls]\ncerts = \"a\"", "FILE: tls.certs: the certificate needs its private key, tls.key"),
        ("[email]\nhost = \"a\"", "FILE: email.host: set email.from as well, the address that mails come from"),
        (
            "[email]\nfrom = \"nobody\"",
            "FILE: email.from: expected an address such as \"noreply@example.org\" or \"Example <noreply@example.org>\", \
             found the text \"nobody\"",
        ),
        ("[email]\nusername = \"a\"", "FILE: email.username: the account needs its email.password"),
        (
            "[email]\nrequired_to_register = true",
            "FILE: email.required_to_register: set email.host, so that addresses can be checked",
        ),
        (
            "media.retention = [{ spcae = 1 }]",
            "FILE: media.retention: a limit has scope, accessed, created and space, but not \"spcae\"",
        ),
        (
            "media.backend = \"s3\"",
            "FILE: media.backend: expected \"filesystem\", the only media store of this server, found the text \"s3\"",
        ),
        (
            "rate_limits.login = 3",
            "FILE: rate_limits.login: expected two numbers above 0, as in { per_second = 0.5, burst = 10 }",
        ),
    ] {
        assert_eq!(error(options), expected);
    }
    assert!(error("port = 1\nport = 2").starts_with("FILE, line 4: "), "{}", error("port = 1\nport = 2"));
    assert!(error("log = \"conduit=loud\"").starts_with("FILE: log: "));
}

#[test]
fn secrets_come_from_files_and_are_never_shown() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, "letmein\n").unwrap();
    let twin = format!("registration_token_file = {file:?}\nallow_registration = true");
    let (config, warnings) = load(&twin).unwrap();
    assert_eq!(config.registration_token.as_ref().unwrap().expose(), "letmein");
    assert_eq!(warnings, [""; 0]);
    assert!(!format!("{config:?}").contains("letmein") && !config.effective().contains("letmein"));
    assert_eq!(
        error(&format!("registration_token = \"a\"\n{twin}")),
        "FILE: registration_token_file: registration_token and registration_token_file are both set: keep one"
    );
    assert!(
        error("turn.secret_file = \"/nonexistent/x\"")
            .starts_with("FILE: turn.secret_file: cannot read /nonexistent/x: ")
    );
    std::fs::write(&file, "\n").unwrap();
    assert_eq!(error(&twin), format!("FILE: registration_token_file: {} is empty", file.display()));
    let empty = load_environment(&[("CONDUIT_TURN_SECRET_FILE", "/dev/null")]).unwrap_err();
    assert_eq!(empty, "CONDUIT_TURN_SECRET_FILE: /dev/null is empty");
}

#[test]
fn registration_is_never_open_by_accident() {
    let registration = |options: &str| load(options).unwrap().0.registration();
    assert_eq!(registration(""), Registration::Closed);
    assert_eq!(registration("allow_open_registration_without_token = true"), Registration::Closed);
    assert_eq!(registration("allow_registration = true"), Registration::Token);
    assert_eq!(registration("allow_registration = true\nregistration_token = \"a\""), Registration::Token);
    let both = "allow_registration = true\nallow_open_registration_without_token = true";
    assert_eq!(registration(both), Registration::Open);
    assert_eq!(registration(&format!("{both}\nregistration_token = \"a\"")), Registration::Token);
    assert!(warnings("allow_registration = true")[0].contains("allow_open_registration_without_token = true"));
}

#[test]
fn a_database_of_another_kind_is_not_passed_over() {
    let directory = TempDir::new().unwrap();
    let options = |backend: &str| {
        format!(
            "server_name = \"example.org\"\ndatabase_path = {:?}\ndatabase_backend = \"{backend}\"",
            directory.path()
        )
    };
    assert_eq!(load_with(&options("rocksdb"), &[]).unwrap().1, [""; 0]);
    assert_eq!(load_with(&options("sqlite"), &[]).unwrap().1.len(), 1);
    std::fs::write(directory.path().join("conduit.db"), "").unwrap();
    let refused = load_with(&options("sqlite"), &[]).unwrap_err();
    assert!(refused.starts_with("FILE: database_backend: ") && refused.contains("conduit.db is a SQLite database"));
    assert!(load_with(&options("postgres"), &[]).unwrap_err().contains("expected \"rocksdb\""));
}

#[test]
fn a_wrong_configuration_ends_in_one_line_and_status_78() {
    let run = |variables: &[(&str, &str)], arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_conduit"))
            .env_clear()
            .envs(variables.iter().copied())
            .args(arguments)
            .output()
            .unwrap()
    };
    let refused = run(&[("CONDUIT_PORT", "abc")], &[]);
    assert_eq!(refused.status.code(), Some(78));
    let line = "conduit: CONDUIT_PORT: expected a whole number from 0 to 65535, found the text \"abc\"\n";
    assert_eq!(String::from_utf8_lossy(&refused.stderr), line);
    let shown = run(&[("CONDUIT_PROT", "1")], &["config"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.starts_with("# Warning: CONDUIT_PROT is not known and has no effect. Did you mean CONDUIT_PORT?\n"));
    assert!(toml::from_str::<toml::Table>(&shown).unwrap().contains_key("global"));
}
