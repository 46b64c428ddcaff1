//! Casts in steps and checks: exact, or an error that names value and column.

use super::{SINK, run};

/// What a step makes of one text; the message where it fails.
async fn cast(expr: &str, text: &str) -> Result<String, String> {
    let yaml = format!(
        "steps:\n  - sql: \"SELECT {expr} AS value FROM input\"\nrejects: {{ tolerate: 100% }}\n{SINK}"
    );
    let out = run(&yaml, &format!("id,name\n1,\"{text}\"\n")).await;
    if let Some(reject) = out.rejects.first() {
        let problem = &reject.problems[0];
        assert_eq!(problem.column.as_deref(), Some("name"), "{problem:?}");
        return Err(problem.message.clone());
    }
    out.run.map_err(|error| error.to_string())?;
    let row = out.rows.lines().nth(3).unwrap_or_default();
    Ok(row.trim_matches(['|', ' ']).to_owned())
}

#[tokio::test]
async fn texts_are_cast_exactly() {
    for (expr, text, expected) in [
        ("CAST(name AS decimal(10,2))", "1.5", "1.50"),
        ("CAST(name AS decimal(10,2))", "-1999.990", "-1999.99"),
        ("name::bigint", "42", "42"),
        ("CAST(name AS int)", "-7", "-7"),
        ("CAST(name AS smallint unsigned)", "65535", "65535"),
        ("CAST(name AS bigint unsigned)", "18446744073709551615", "18446744073709551615"),
        ("CAST(name AS double)", "0.1", "0.1"),
        ("CAST(name AS real)", "0.5", "0.5"),
        ("CAST(name AS date)", "2024-02-29", "2024-02-29"),
        ("CAST(concat('2024-05-01T', name) AS timestamp)", "10:00:00+02:00", "2024-05-01T08:00:00Z"),
        ("CAST(name AS timestamp)", "2024-05-01", "2024-05-01T00:00:00Z"),
        (
            "CAST(concat('9999-12-31 ', name) AS timestamp(6))",
            "23:59:59.999999",
            "9999-12-31T23:59:59.999999Z",
        ),
        ("arrow_cast(name, 'Decimal128(10, 2)')", "0.10", "0.10"),
        ("CAST(trim(name) AS int)", " 12 ", "12"),
        ("TRY_CAST(name AS int)", "12", "12"),
        ("coalesce(TRY_CAST(name AS int), -1)", "n/a", "-1"),
        ("coalesce(TRY_CAST(name AS date), DATE '1970-01-01')", "soon", "1970-01-01"),
        ("CAST(round(CAST(name AS double), 2) AS decimal(10,2))", "1.005", "1.00"),
        ("CAST(CAST(name AS double) AS decimal(10,2))", "1.15", "1.15"),
        ("CAST(round(CAST(name AS decimal(10,3)), 2) AS decimal(10,2))", "1.005", "1.01"),
        ("CAST(CAST(name AS decimal(10,4)) AS decimal(10,2))", "1.1500", "1.15"),
    ] {
        assert_eq!(cast(expr, text).await, Ok(expected.to_owned()), "{expr} of `{text}`");
    }
}

#[tokio::test]
async fn what_a_cast_would_change_is_told_with_value_and_column() {
    for (expr, text, expected) in [
        (
            "CAST(name AS decimal(10,2))",
            "0.005",
            "`0.005` has more digits after the point than the column keeps",
        ),
        ("CAST(name AS decimal(10,2))", "1,999", "`1,999` is not a decimal number without exponent"),
        ("CAST(name AS decimal(10,2))", " 12 ", "` 12 ` is not a decimal number without exponent"),
        (
            "CAST(name AS decimal(4,2))",
            "100.00",
            "`100.00` has more digits than the column keeps (decimal(4, 2))",
        ),
        ("arrow_cast(name, 'Decimal128(10, 2)')", "0.005", "`0.005` has more digits"),
        ("CAST(name AS int)", "1.0", "`1.0` is not an integer"),
        ("CAST(name AS int)", "3000000000", "3000000000"),
        ("CAST(name AS double)", "nan", "`nan` is not a decimal number"),
        ("CAST(name AS real)", "1e300", "`1e300` does not fit into a 32-bit float"),
        ("CAST(name AS date)", "2023-02-29", "`2023-02-29` is not a date"),
        ("CAST(name AS date)", "2024-05-01 10:00:00", "is not a date"),
        ("CAST(name AS timestamp)", "2024-05-01 24:00:00", "is not a timestamp"),
        (
            "CAST(concat('2024-05-01 ', name) AS timestamp(6))",
            "10:00:00.1234567",
            "is finer than a microsecond",
        ),
        ("CAST(concat('2024-05-01 ', name) AS timestamp(0))", "10:00:00.5", "is finer than the type keeps"),
        ("TRY_CAST(name AS decimal(10,2))", "0.005", "`0.005` has more digits after the point"),
        ("CAST(CAST(name AS double) AS decimal(10,2))", "0.005", "without being rounded; use round(…)"),
        (
            "CAST(CAST(name AS decimal(10,3)) AS decimal(10,2))",
            "0.005",
            "without being rounded; use round(…)",
        ),
    ] {
        let told = cast(expr, text).await.unwrap_err();
        assert!(told.contains(expected), "{expr} of `{text}`: {told}");
    }
}

#[tokio::test]
async fn casts_in_conditions_and_keys_are_exact_too() {
    let told = cast("id", "x").await;
    assert_eq!(told, Ok("1".to_owned()));
    for steps in [
        "  - check: { name: c, where: \"CAST(name AS decimal(10,2)) >= 0.01\", else: reject }\n",
        "  - sql: \"SELECT id FROM input WHERE CAST(name AS decimal(10,2)) >= 0.01\"\n",
        "  - sql: \"SELECT max(id) AS id FROM input GROUP BY CAST(name AS decimal(10,2))\"\n",
        "  - sql: \"SELECT a.id FROM input a JOIN input b ON CAST(a.name AS decimal(10,2)) = b.id\"\n",
    ] {
        let out =
            run(&format!("steps:\n{steps}rejects: {{ tolerate: 100% }}\n{SINK}"), "id,name\n1,0.005\n").await;
        let told = match out.rejects.first() {
            Some(reject) => reject.problems[0].message.clone(),
            None => out.run.unwrap_err().to_string(),
        };
        assert!(told.contains("`0.005` has more digits"), "{steps}: {told}");
    }
}
