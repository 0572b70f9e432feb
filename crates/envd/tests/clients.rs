//! The generated client: both codecs, both HTTP versions, Connect and gRPC.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::needless_pass_by_value,
    reason = "a failure of a helper is a failure of the test, and literals read best where they are used"
)]

mod common;

use common::Envd;
use connectrpc::client::{ClientConfig, ClientTransport, Http2Connection, HttpClient};
use connectrpc::{CodecFormat, ErrorCode, Protocol};
use soulbox_envd_proto::filesystem::{FilesystemClient, StatRequest};
use soulbox_envd_proto::process::process_event::Event;
use soulbox_envd_proto::process::process_event::data_event::Output;
use soulbox_envd_proto::process::{
    ConnectRequest, ConnectResponse, ListRequest, ProcessClient, ProcessConfig, StartRequest,
    StartResponse,
};

async fn exercise<T>(transport: T, config: ClientConfig)
where
    T: ClientTransport + Clone,
    T::ResponseBody: Unpin,
    <T::ResponseBody as connectrpc::http_body::Body>::Error: std::fmt::Display,
{
    let processes = ProcessClient::new(transport.clone(), config.clone());
    let process = ProcessConfig {
        cmd: "sh".to_owned(),
        args: vec![
            "-c".to_owned(),
            "printf '\\001\\377'; head -c 100000 /dev/zero >&2; exit 7".to_owned(),
        ],
        ..ProcessConfig::default()
    };
    let request = StartRequest {
        process: process.into(),
        stdin: Some(false),
        ..StartRequest::default()
    };
    let mut stream = processes.start(request).await.unwrap();
    let (mut out, mut err, mut code) = (Vec::new(), 0, None);
    while let Some(message) = stream.message::<StartResponse>().await.unwrap() {
        match message
            .to_owned_message()
            .event
            .into_option()
            .unwrap()
            .event
            .unwrap()
        {
            Event::Data(data) => match data.output.unwrap() {
                Output::Stdout(bytes) => out.extend(bytes),
                Output::Stderr(bytes) => err += bytes.len(),
                Output::Pty(_) => panic!("no terminal here"),
            },
            Event::End(end) => code = Some(end.exit_code),
            Event::Start(_) | Event::Keepalive(_) => {}
        }
    }
    assert_eq!((out, err, code), (vec![1, 0xff], 100_000, Some(7)));
    assert!(
        processes
            .list(ListRequest::default())
            .await
            .unwrap()
            .into_owned()
            .processes
            .is_empty()
    );
    let nobody = processes.connect(ConnectRequest::default()).await;
    let code = match nobody {
        Err(error) => error.code,
        Ok(mut stream) => {
            stream
                .message::<ConnectResponse>()
                .await
                .map(|_| ())
                .unwrap_err()
                .code
        }
    };
    assert_eq!(code, ErrorCode::Unimplemented);

    let files = FilesystemClient::new(transport, config);
    let stat = |path: &str| StatRequest {
        path: path.to_owned(),
        ..StatRequest::default()
    };
    let entry = files
        .stat(stat("/etc/passwd"))
        .await
        .unwrap()
        .into_owned()
        .entry
        .into_option()
        .unwrap();
    assert_eq!((entry.name.as_str(), entry.is_symlink), ("passwd", false));
    let missing = files.stat(stat("/nowhere")).await.unwrap_err();
    assert_eq!(missing.code, ErrorCode::NotFound);
}

#[tokio::test(flavor = "current_thread")]
async fn every_way_to_speak() {
    let envd = Envd::start();
    let uri: http::Uri = format!("http://{}", envd.address).parse().unwrap();
    for codec in [CodecFormat::Json, CodecFormat::Proto] {
        let config = ClientConfig::new(uri.clone()).with_codec_format(codec);
        exercise(HttpClient::plaintext(), config.clone()).await;
        let connection = || async {
            Http2Connection::connect_plaintext(uri.clone())
                .await
                .unwrap()
                .shared(64)
        };
        exercise(connection().await, config.clone()).await;
        exercise(
            connection().await,
            config.clone().with_protocol(Protocol::Grpc),
        )
        .await;
        exercise(
            HttpClient::plaintext(),
            config.with_protocol(Protocol::GrpcWeb),
        )
        .await;
    }
}
