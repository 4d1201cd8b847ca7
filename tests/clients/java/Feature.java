import java.io.BufferedReader;
import java.io.Closeable;
import java.io.IOException;
import java.io.InputStreamReader;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.FutureTask;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/**
 * Runs the steps of a Java client program and prints their results, as python/feature.py does.
 *
 * <p>Each step runs in a thread of its own, so that one which hangs does not end the others.
 */
final class Feature {
    static final int WAIT_S = 20;
    private static final int STEP_LIMIT_S = 30;
    private static final int RECOVERY_LIMIT_S = 90;

    private Feature() {}

    /** One step, with what it needs to know of the broker. */
    interface Step<S> {
        void run(S scene) throws Exception;
    }

    /** What a step gets, made anew for each. */
    interface SceneMaker<S extends Closeable> {
        S make(String host, int port) throws Exception;
    }

    /** What arrives, in its order, from whichever thread, and the means to wait for it. */
    static final class Inbox<T> {
        private final List<T> items = new ArrayList<>();

        synchronized void put(T item) {
            items.add(item);
            notifyAll();
        }

        synchronized List<T> items() {
            return new ArrayList<>(items);
        }

        /** Waits until there are count items; returns all that are there. */
        synchronized List<T> have(int count, String what) throws InterruptedException {
            long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(WAIT_S);
            while (items.size() < count) {
                long left = TimeUnit.NANOSECONDS.toMillis(deadline - System.nanoTime());
                check(left > 0, "waited " + WAIT_S + " s for " + what);
                wait(left);
            }
            return items();
        }
    }

    /** A name for a queue or exchange that no other run uses. */
    static String name(String what) {
        return "clients.java." + ProcessHandle.current().pid() + "." + what;
    }

    static void equal(Object got, Object wanted, String what) {
        if (!Objects.equals(got, wanted)) {
            throw new AssertionError(what + ": got " + got + ", wanted " + wanted);
        }
    }

    static void check(boolean isTrue, String what) {
        if (!isTrue) {
            throw new AssertionError(what);
        }
    }

    /** Tells the harness that the broker may die now; returns when it is back. */
    static void waitForRestart() throws IOException {
        System.out.println("ready");
        String line = new BufferedReader(new InputStreamReader(System.in)).readLine();
        check("restarted".equals(line), "the harness said " + line);
    }

    /** The innermost line of the program itself on the way to the error. */
    private static int lineOf(Throwable error, String program) {
        return Arrays.stream(error.getStackTrace())
            .filter(frame -> program.equals(frame.getFileName()))
            .mapToInt(StackTraceElement::getLineNumber).findFirst().orElse(0);
    }

    private static void runStep(String step, FutureTask<Void> task, String program)
        throws InterruptedException {
        Thread thread = new Thread(task, step);
        thread.setDaemon(true);
        thread.start();
        Throwable problem;
        try {
            task.get(step.equals("recovery") ? RECOVERY_LIMIT_S : STEP_LIMIT_S, TimeUnit.SECONDS);
            System.out.println("ok " + step);
            return;
        } catch (ExecutionException error) {
            problem = error.getCause();
        } catch (TimeoutException late) {
            problem = new AssertionError("the step took too long");
            problem.setStackTrace(thread.getStackTrace());
        }
        String because = problem.getCause() == null ? "" : " because " + problem.getCause();
        System.out.println("not ok " + step + ": " + (problem + because).replaceAll("\\s+", " ")
            + " (line " + lineOf(problem, program) + ")");
    }

    /** Runs the steps named on the command line, or all but recovery, in the order of the map. */
    static <S extends Closeable> void run(String[] arguments, String program,
        SceneMaker<S> maker, Map<String, Step<S>> steps) throws InterruptedException {
        List<String> wanted =
            new ArrayList<>(Arrays.asList(arguments).subList(2, arguments.length));
        if (wanted.isEmpty()) {
            wanted.addAll(steps.keySet());
            wanted.remove("recovery");
        }
        for (String step : wanted) {
            runStep(step, new FutureTask<>(() -> {
                try (S scene = maker.make(arguments[0], Integer.parseInt(arguments[1]))) {
                    steps.get(step).run(scene);
                }
                return null;
            }), program);
        }
    }
}
