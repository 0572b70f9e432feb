import java.io.BufferedReader;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.LinkedBlockingQueue;
import jdk.jshell.Diag;
import jdk.jshell.EvalException;
import jdk.jshell.JShell;
import jdk.jshell.JShellException;
import jdk.jshell.Snippet;
import jdk.jshell.SnippetEvent;
import jdk.jshell.SourceCodeAnalysis;

/** Runs Java by JShell: one line of JSON per request on standard input, one per event on the descriptor that SOULBOX_EVENTS numbers. */
public final class Kernel {
    private static final String[] IMPORTS = {
        "java.io.*", "java.math.*", "java.net.*", "java.nio.file.*", "java.util.*", "java.util.concurrent.*",
        "java.util.function.*", "java.util.prefs.*", "java.util.regex.*", "java.util.stream.*",
    };

    private final OutputStream events;
    private final JShell shell;
    /** Code has ended the machine that it runs in, and with it all it had. */
    private volatile boolean isOver;
    private final LinkedBlockingQueue<String> code = new LinkedBlockingQueue<>();

    private Kernel() throws IOException {
        events = new FileOutputStream("/proc/self/fd/" + System.getenv("SOULBOX_EVENTS"));
        shell = JShell.builder().out(System.out).err(System.err).build();
        shell.onShutdown(ended -> isOver = true);
        for (String name : IMPORTS) {
            shell.eval("import " + name + ";");
        }
    }

    public static void main(String[] arguments) throws Exception {
        Kernel kernel = new Kernel();
        Thread reader = new Thread(kernel::read, "requests");
        reader.setDaemon(true);
        reader.start();
        while (true) {
            kernel.run(kernel.code.take());
        }
    }

    /** Takes requests, also while code runs. */
    private void read() {
        try (BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8))) {
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                if (line.startsWith("{\"interrupt\"")) {
                    shell.stop();
                } else {
                    code.add(Json.firstString(line));
                }
            }
        } catch (IOException ended) {
            // As at the end of the input.
        }
        Runtime.getRuntime().halt(0);
    }

    private void run(String source) throws IOException {
        Outcome outcome = new Outcome();
        String rest = source;
        while (!rest.isBlank() && outcome.error == null && !isOver) {
            SourceCodeAnalysis.CompletionInfo next = shell.sourceCodeAnalysis().analyzeCompletion(rest);
            if (!next.completeness().isComplete() || next.source() == null) {
                take(shell.eval(rest), outcome);
                if (outcome.error == null) {
                    outcome.error = error("SyntaxError", "the code is incomplete", rest);
                }
                break;
            }
            take(shell.eval(next.source()), outcome);
            rest = next.remaining();
        }
        System.out.flush();
        System.err.flush();
        if (isOver) {
            // Whoever started this one tells of it and starts another.
            Runtime.getRuntime().halt(0);
        }
        if (outcome.error == null && outcome.value != null) {
            say("{\"result\": {\"text/plain\": " + Json.quoted(outcome.value) + "}}");
        }
        say("{\"done\": " + (outcome.error == null ? "null" : outcome.error) + "}");
    }

    private static final class Outcome {
        String value;
        String error;
    }

    private void take(List<SnippetEvent> happened, Outcome outcome) {
        for (SnippetEvent event : happened) {
            if (event.causeSnippet() != null) {
                continue;
            }
            outcome.value = isExpression(event.snippet()) ? event.value() : null;
            if (event.exception() != null) {
                outcome.error = thrown(event.exception());
            } else if (event.status() == Snippet.Status.REJECTED) {
                outcome.error = rejected(event.snippet());
            } else if (event.status() == Snippet.Status.NONEXISTENT) {
                outcome.error = error("KeyboardInterrupt", "", "");
            }
        }
    }

    /** Whether it was written for its value; JShell gives most of these a variable, which nobody has asked for. */
    private static boolean isExpression(Snippet snippet) {
        return snippet.kind() == Snippet.Kind.EXPRESSION || snippet.subKind() == Snippet.SubKind.TEMP_VAR_EXPRESSION_SUBKIND;
    }

    private String thrown(JShellException exception) {
        String name = exception instanceof EvalException thrown ? thrown.getExceptionClassName() : exception.getClass().getName();
        String message = exception.getMessage() == null ? "" : exception.getMessage();
        List<String> lines = new ArrayList<>();
        lines.add(message.isEmpty() ? name : name + ": " + message);
        for (StackTraceElement element : exception.getStackTrace()) {
            lines.add("\tat " + element);
        }
        return error(name.substring(name.lastIndexOf('.') + 1), message, String.join("\n", lines));
    }

    private String rejected(Snippet snippet) {
        List<String> messages = new ArrayList<>();
        for (Diag problem : shell.diagnostics(snippet).toList()) {
            messages.add(problem.getMessage(Locale.ROOT));
        }
        String text = String.join("\n", messages);
        return error("CompilationError", text, text + "\n" + snippet.source());
    }

    private static String error(String name, String value, String traceback) {
        return "{\"name\": " + Json.quoted(name) + ", \"value\": " + Json.quoted(value)
            + ", \"traceback\": " + Json.quoted(traceback) + "}";
    }

    private synchronized void say(String line) throws IOException {
        events.write((line + "\n").getBytes(StandardCharsets.US_ASCII));
        events.flush();
    }

    /** As much of JSON as is spoken here. */
    private static final class Json {
        /** The first value of an object that has a string in it. */
        static String firstString(String line) {
            StringBuilder text = new StringBuilder();
            for (int at = line.indexOf('"', line.indexOf(':')) + 1; line.charAt(at) != '"'; at++) {
                char letter = line.charAt(at);
                if (letter != '\\') {
                    text.append(letter);
                    continue;
                }
                char escape = line.charAt(++at);
                switch (escape) {
                    case 'n' -> text.append('\n');
                    case 't' -> text.append('\t');
                    case 'r' -> text.append('\r');
                    case 'b' -> text.append('\b');
                    case 'f' -> text.append('\f');
                    case 'u' -> {
                        text.append((char) Integer.parseInt(line.substring(at + 1, at + 5), 16));
                        at += 4;
                    }
                    default -> text.append(escape);
                }
            }
            return text.toString();
        }

        static String quoted(String text) {
            StringBuilder out = new StringBuilder("\"");
            for (char letter : text.toCharArray()) {
                if (letter == '"' || letter == '\\') {
                    out.append('\\').append(letter);
                } else if (letter < ' ' || letter > '~') {
                    out.append(String.format("\\u%04x", (int) letter));
                } else {
                    out.append(letter);
                }
            }
            return out.append('"').toString();
        }
    }
}
