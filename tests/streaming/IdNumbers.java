package sparc.streaming;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.Base64;

/** For each line, a text in base64, the number that `Id` gives it, and its text; nothing for none. */
final class IdNumbers {
    public static void main(String[] arguments) throws Exception {
        BufferedReader lines =
                new BufferedReader(new InputStreamReader(System.in, StandardCharsets.US_ASCII));
        StringBuilder out = new StringBuilder();
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            byte[] given = Base64.getDecoder().decode(line.substring(1));
            Id id = Id.of(new String(given, StandardCharsets.UTF_8));
            if (id != null) {
                out.append(id.number).append(' ');
                if (id.text != null) {
                    out.append(Base64.getEncoder().encodeToString(id.text));
                }
            }
            out.append('\n');
        }
        System.out.print(out);
    }
}
