package sparc.streaming;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.Base64;

/** For each line "timestamp key value", the last two in base64 or "-", what `Click` says of it. */
final class ClickVerdicts {
    public static void main(String[] arguments) throws Exception {
        long now = Long.parseLong(arguments[0]);
        long maxAhead = Long.parseLong(arguments[1]);
        BufferedReader lines =
                new BufferedReader(new InputStreamReader(System.in, StandardCharsets.US_ASCII));
        StringBuilder out = new StringBuilder();
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            String[] parts = line.split(" ");
            Click click =
                    Click.parse(
                            bytes(parts[2]),
                            bytes(parts[1]),
                            Long.parseLong(parts[0]),
                            now,
                            false,
                            maxAhead,
                            1 << 20);
            out.append(click.reason == null ? "" : click.reason).append('\n');
        }
        System.out.print(out);
    }

    private static byte[] bytes(String text) {
        return text.equals("-") ? null : Base64.getDecoder().decode(text.substring(1));
    }
}
