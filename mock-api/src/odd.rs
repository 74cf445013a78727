//! Records that are odd but must be stored, and records that cannot be.

/// What a correct client makes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A row.
    Row,
    /// A dead letter.
    DeadLetter,
}

fn record(id: &str, name: &str, budget: &str, clicks: &str, created: &str, more: &str) -> String {
    format!(
        r#"{{"id":{id},"name":{name},"status":"active","budget":{budget},"impressions":10,"clicks":{clicks},"conversions":1,"created_at":{created}{more}}}"#
    )
}

/// All of them: the id (empty where the record has none that can be used), the record, and its fate.
#[must_use]
pub fn records() -> Vec<(String, String, Fate)> {
    let time = "\"2026-01-04T03:09:09.000Z\"";
    let long = "x".repeat(10_000);
    let mut all = Vec::new();
    for id in [
        "a/b",
        "a?b=c",
        "100%",
        "two words",
        "..",
        ".",
        "über/日本",
        "quote\"s",
        "back\\slash",
        "new\nline",
        "semi;colon",
        "tab\there",
        "'; drop table campaigns; --",
        "esc\u{1b}[31mred",
        "%2F",
        "a#b",
        "+plus+",
        "_",
    ] {
        let json = serde_json::to_string(id).unwrap_or_default();
        all.push((id.to_owned(), record(&json, "\"odd id\"", "1", "1", time, ""), Fate::Row));
    }
    let values: [(&str, String, Fate); 22] = [
        (
            "v_digits",
            record(
                "\"v_digits\"",
                "\"n\"",
                "1234567890123456789012345678901234567890.12345678901234567890",
                "1",
                time,
                "",
            ),
            Fate::Row,
        ),
        ("v_exponent", record("\"v_exponent\"", "\"n\"", "1.5e3", "1", time, ""), Fate::Row),
        ("v_negative_budget", record("\"v_negative_budget\"", "\"n\"", "-0.01", "1", time, ""), Fate::Row),
        ("v_max_count", record("\"v_max_count\"", "\"n\"", "1", "9223372036854775807", time, ""), Fate::Row),
        ("v_empty_name", record("\"v_empty_name\"", "\"\"", "1", "1", time, ""), Fate::Row),
        (
            "v_extra",
            record(
                "\"v_extra\"",
                "\"n\"",
                "1",
                "1",
                time,
                r#","labels":{"deep":[1,2.50,{"x":null}]},"new":true"#,
            ),
            Fate::Row,
        ),
        (
            "v_offset",
            record("\"v_offset\"", "\"n\"", "1", "1", "\"2026-01-04T03:09:09.123456+02:00\"", ""),
            Fate::Row,
        ),
        ("v_budget_text", record("\"v_budget_text\"", "\"n\"", "\"12\"", "1", time, ""), Fate::DeadLetter),
        (
            "v_beyond_i64",
            record("\"v_beyond_i64\"", "\"n\"", "1", "9223372036854775808", time, ""),
            Fate::DeadLetter,
        ),
        ("v_negative_count", record("\"v_negative_count\"", "\"n\"", "1", "-1", time, ""), Fate::DeadLetter),
        ("v_fraction", record("\"v_fraction\"", "\"n\"", "1", "1.5", time, ""), Fate::DeadLetter),
        ("v_nul_name", record("\"v_nul_name\"", "\"a\\u0000b\"", "1", "1", time, ""), Fate::DeadLetter),
        (
            "v_nul_extra",
            record("\"v_nul_extra\"", "\"n\"", "1", "1", time, r#","note":"a\u0000b""#),
            Fate::DeadLetter,
        ),
        ("v_bad_time", record("\"v_bad_time\"", "\"n\"", "1", "1", "\"yesterday\"", ""), Fate::DeadLetter),
        ("v_null_time", record("\"v_null_time\"", "\"n\"", "1", "1", "null", ""), Fate::DeadLetter),
        ("v_huge_budget", record("\"v_huge_budget\"", "\"n\"", "1e200000", "1", time, ""), Fate::DeadLetter),
        (
            "v_no_name",
            r#"{"id":"v_no_name","status":"active","budget":1,"impressions":1,"clicks":1,"conversions":1}"#
                .into(),
            Fate::DeadLetter,
        ),
        ("", record("\"lone\\ud800\"", "\"n\"", "1", "1", time, ""), Fate::DeadLetter),
        ("", record("\"nul\\u0000id\"", "\"n\"", "1", "1", time, ""), Fate::DeadLetter),
        ("", record(&format!("\"{long}\""), "\"n\"", "1", "1", time, ""), Fate::DeadLetter),
        ("", record("17", "\"numeric id\"", "1", "1", time, ""), Fate::DeadLetter),
        ("", record("\"\"", "\"empty id\"", "1", "1", time, ""), Fate::DeadLetter),
    ];
    let nested = |depth: usize| format!(",\"deep\":{}{}", "[".repeat(depth), "]".repeat(depth));
    all.push(("v_deep".into(), record("\"v_deep\"", "\"n\"", "1", "1", time, &nested(60)), Fate::Row));
    // Deeper than parsers go that guard their stack.
    all.push((
        "too_deep".into(),
        record("\"too_deep\"", "\"n\"", "1", "1", time, &nested(5_000)),
        Fate::DeadLetter,
    ));
    all.push((
        "lone_name".into(),
        record("\"lone_name\"", "\"\\udc00\"", "1", "1", time, ""),
        Fate::DeadLetter,
    ));
    for (id, name, budget, clicks) in [
        ("v_null_name", "null", "1", "1"),
        ("v_null_budget", "\"n\"", "null", "1"),
        ("v_null_clicks", "\"n\"", "1", "null"),
        ("v_text_clicks", "\"n\"", "1", "\"1\""),
        ("v_name_object", "{\"a\":1}", "1", "1"),
    ] {
        let raw = record(&format!("\"{id}\""), name, budget, clicks, time, "");
        all.push((id.into(), raw, Fate::DeadLetter));
    }
    all.extend(values.into_iter().map(|(id, json, fate)| (id.to_owned(), json, fate)));
    all.push((String::new(), r#"{"name":"no id"}"#.into(), Fate::DeadLetter));
    for raw in ["[1,2]", "null", "{}", "17", "true", "\"campaign_1\""] {
        all.push((String::new(), raw.into(), Fate::DeadLetter));
    }
    all
}
