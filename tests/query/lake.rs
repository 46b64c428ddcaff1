//! Statements over tables of the lake.

use serde_json::json;

use crate::place::Place;

#[tokio::test]
async fn tables_of_the_lake_are_asked_like_others_by_those_who_may_see_them() {
    let place = Place::start(&[]).await;
    let admin = place.login("admin").await;
    let reader = place.user("reader", &[("flights_lake", "read")]).await;
    let stranger = place.user("stranger", &[("departments", "read")]).await;
    place.send(&admin, "flights_lake", "nycflights13/flights-2013-01.csv").await;
    let all = "SELECT count(*), count(dep_time), sum(distance), min(time_hour_day), max(time_hour_day) \
               FROM lake.flights";
    for user in [&admin, &reader] {
        assert_eq!(
            place.rows(user, all).await,
            json!([[27004, 26483, 27188805, "2013-01-01", "2013-02-01"]])
        );
    }
    let of_a_day = "SELECT count(*) FROM lake.flights WHERE time_hour_day = DATE '2013-01-04'";
    assert_eq!(place.rows(&reader, of_a_day).await, json!([[917]]));
    let listed = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'lake'";
    assert_eq!(place.rows(&reader, listed).await, json!([["flights"]]));
    assert_eq!(place.rows(&stranger, listed).await, json!([]));
    let (status, problem) = place.problem(&stranger, json!({ "sql": all })).await;
    assert_eq!((status, &problem["code"]), (400, &json!("unknown_table")), "{problem}");
    let (status, problem) = place.problem(&admin, json!({ "sql": "SELECT * FROM lake.flghts" })).await;
    let detail = problem["detail"].as_str().unwrap();
    assert!(status == 400 && detail.contains("did you mean `lake.flights`?"), "{problem}");
}
