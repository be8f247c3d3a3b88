import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.stream.IntStream;

/** Calls a running service by the JDK's client, which Spring's uses: `java JdkClient.java URL`. */
public class JdkClient {
    public static void main(String[] arguments) throws Exception {
        var client = HttpClient.newHttpClient(); // asks for an upgrade to HTTP/2
        var uri = URI.create(arguments[0] + "/v1/embeddings");
        var body = "{\"model\":\"minilm\",\"input\":[\"a\",\"b\"],\"encoding_format\":\"float\","
            + "\"user\":null,\"dimensions\":null}";
        for (boolean expectsContinue : List.of(false, true)) {
            for (BodyPublisher publisher : List.of(
                    BodyPublishers.ofString(body), // with a length, and in chunks
                    BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(body.getBytes())))) {
                var request = HttpRequest.newBuilder(uri).POST(publisher)
                    .header("Content-Type", "application/json")
                    .header("Authorization", "Bearer unused")
                    .expectContinue(expectsContinue).build();
                check(client.send(request, BodyHandlers.ofString()).statusCode());
            }
        }
        var request = HttpRequest.newBuilder(uri).POST(BodyPublishers.ofString(body))
            .header("Content-Type", "application/json").build();
        var calls = IntStream.range(0, 50)
            .mapToObj(i -> client.sendAsync(request, BodyHandlers.ofString())).toList();
        for (var call : calls) {
            check(call.get().statusCode());
        }
        System.out.println("ok java.net.http");
        System.exit(0);
    }

    static void check(int status) {
        if (status != 200) {
            throw new AssertionError("status " + status);
        }
    }
}
