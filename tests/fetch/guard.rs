//! Which addresses are asked, and who gets the credentials.

use axum::http::StatusCode;
use axum::response::IntoResponse;

use crate::api::{Api, Asked, csv};
use crate::place::{Place, pipeline};

const ONE: &str = "{ url: 'BASE/readings' }";

fn redirect(to: &str) -> Option<axum::response::Response> {
    Some((StatusCode::FOUND, [("location", to.to_owned())]).into_response())
}

#[tokio::test]
async fn this_machine_is_not_asked_unless_allowed() {
    let api = Api::start(|_| csv(1)).await;
    let port = api.base.rsplit(':').next().unwrap().to_owned();
    let mut place = Place::new().await;
    place.allow.clear();
    for host in ["127.0.0.1", "localhost", "127.1", "[::ffff:127.0.0.1]", "2130706433", "0.0.0.0"] {
        let error = place.failure(&pipeline(&format!("http://{host}:{port}"), ONE)).await;
        assert!(error.contains("which is not public"), "{host}: {error}");
    }
    assert!(api.all_hits().is_empty(), "{:?}", api.all_hits());
}

#[tokio::test]
async fn a_redirect_into_the_network_of_the_machine_is_not_followed() {
    for (to, words) in [
        ("http://169.254.169.254/latest/meta-data", "169.254.169.254, which is not public"),
        ("http://10.0.0.1/", "10.0.0.1, which is not public"),
        ("http://[::ffff:169.254.169.254]/", "which is not public"),
        ("file:///etc/passwd", "only http and https are followed"),
    ] {
        let api = Api::start(move |_| redirect(to)).await;
        let error = Place::new().await.failure(&pipeline(&api.base, ONE)).await;
        assert!(error.contains(words), "{to}: {error}");
        assert_eq!(api.hits("/readings"), 1);
    }
}

#[tokio::test]
async fn a_link_into_the_network_of_the_machine_is_not_followed() {
    let api = Api::start(|_| crate::api::json(r#"{"pages": ["http://169.254.169.254/x"]}"#.to_owned())).await;
    let source = "{ url: BASE/readings, pages: { links: { path: '$.pages[*]' } } }";
    let error = Place::new().await.failure(&pipeline(&api.base, source)).await;
    assert!(error.starts_with("http://169.254.169.254/x may not be fetched"), "{error}");
}

#[tokio::test]
async fn redirects_are_followed_a_few_times() {
    let api = Api::start(|asked| match asked.target.as_str() {
        "/readings" => redirect("/a"),
        "/a" => redirect("/b"),
        "/b" => csv(1),
        _ => redirect(&asked.target),
    })
    .await;
    let place = Place::new().await;
    place.job(&pipeline(&api.base, ONE)).await;
    let place = Place::new().await;
    let error = place.failure(&pipeline(&api.base, "{ url: BASE/round }")).await;
    assert!(error.ends_with("/round redirects more than 5 times"), "{error}");
}

fn header(asked: &Asked, name: &str) -> String {
    asked.headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
}

#[tokio::test]
async fn each_way_of_auth_sends_its_secret() {
    for (auth, check) in [
        ("auth: { basic: { user: ann, secret: token } }", "Basic YW5uOnMzY3JldA=="),
        ("auth: { bearer: { secret: token } }", "Bearer s3cret"),
        ("headers: { Authorization: 'Token {{ secrets.token }}' }", "Token s3cret"),
        ("auth: { api_key: { secret: token, header: Authorization } }", "s3cret"),
    ] {
        let api = Api::start(move |asked| match header(asked, "authorization") == check {
            true => csv(1),
            false => Some((StatusCode::UNAUTHORIZED, header(asked, "authorization")).into_response()),
        })
        .await;
        Place::new().await.job(&pipeline(&api.base, &format!("{{ url: BASE/readings, {auth} }}"))).await;
    }
    let missing = pipeline("http://127.0.0.1:9", "{ url: BASE/x, auth: { bearer: { secret: nobody } } }");
    let error = Place::new().await.failure(&missing).await;
    assert_eq!(error, "the settings have no secret `nobody` for fetching");
}

#[tokio::test]
async fn a_key_in_the_url_stands_in_no_ledger_and_no_error() {
    let api = Api::start(|asked| {
        let number =
            asked.target.split(['?', '&']).find_map(|part| part.strip_prefix("page=")).unwrap_or("0");
        let next = format!("{}/readings?key=s3cret&page={}", asked.base, number.parse::<u64>().unwrap() + 1);
        match (asked.target.contains("key=s3cret"), number) {
            (true, "2") => Some(StatusCode::GONE.into_response()),
            (true, _) => crate::api::json(format!("{{\"next\": \"{next}\"}}")),
            _ => Some(StatusCode::UNAUTHORIZED.into_response()),
        }
    })
    .await;
    let place = Place::new().await;
    let source = "{ url: BASE/readings, auth: { api_key: { secret: token, parameter: key } }, pages: { next: { path: $.next } } }";
    let error = place.failure(&pipeline(&api.base, source)).await;
    assert_eq!(error, format!("{}/readings answered with status 410", api.base));
    assert_eq!(api.hits("/readings?page=1&key=s3cret"), 1, "the key is sent once: {:?}", api.all_hits());
    let urls: Vec<String> = sqlx_urls(&place).await;
    assert!(urls.len() == 3 && urls.iter().all(|url| !url.contains("s3cret")), "{urls:?}");
}

async fn sqlx_urls(place: &Place) -> Vec<String> {
    use sqlx::Row;
    let rows = sqlx::query("SELECT url FROM tidemill_pages").fetch_all(place.jobs.pool()).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn credentials_are_not_sent_to_another_origin() {
    let other = Api::start(|asked| match header(asked, "authorization") + &header(asked, "x-token") {
        leaked if leaked.is_empty() => csv(1),
        leaked => Some((StatusCode::BAD_REQUEST, leaked).into_response()),
    })
    .await;
    let target = format!("{}/elsewhere", other.base);
    let listed = target.clone();
    let api = Api::start(move |asked| match asked.target.as_str() {
        "/redirect" => redirect(&target),
        _ if header(asked, "authorization").is_empty() => Some(StatusCode::UNAUTHORIZED.into_response()),
        _ => crate::api::json(format!("{{\"pages\": [\"{listed}\"]}}")),
    })
    .await;
    let secrets =
        "auth: { bearer: { secret: token } }, headers: { X-Token: '{{ secrets.other }}', Accept: text/csv }";
    for source in ["url: BASE/redirect", "url: BASE/index, pages: { links: { path: '$.pages[*]' } }"] {
        Place::new().await.job(&pipeline(&api.base, &format!("{{ {source}, {secrets} }}"))).await;
    }
    assert_eq!(other.hits("/elsewhere"), 2);
}
