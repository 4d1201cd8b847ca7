<?php
// Runs the steps of a PHP client program and prints their results, as python/feature.py does.
//
// No alarm ends a step that hangs: the connection's time limits do, as all that waits is a call of
// the library.

const WAIT_S = 20;

/** A name for a queue or exchange that no other run uses. */
function name(string $what): string
{
    return sprintf('clients.%s.%d.%s', basename($_SERVER['argv'][0]), getmypid(), $what);
}

function equal(mixed $got, mixed $wanted, string $what): void
{
    if ($got !== $wanted) {
        throw new RuntimeException(sprintf(
            '%s: got %s, wanted %s', $what, var_export($got, true), var_export($wanted, true)
        ));
    }
}

function check(bool $is_true, string $what): void
{
    if (!$is_true) {
        throw new RuntimeException($what);
    }
}

/** Tells the harness that the broker may die now; returns when it is back. */
function wait_for_restart(): void
{
    echo "ready\n";
    $line = fgets(STDIN);
    check($line === "restarted\n", 'the harness said ' . var_export($line, true));
}

/** The innermost line of the program itself on the way to the error. */
function line_of(Throwable $error): int
{
    $program = realpath($_SERVER['argv'][0]);
    $way = [['file' => $error->getFile(), 'line' => $error->getLine()], ...$error->getTrace()];
    foreach ($way as $call) {
        if (($call['file'] ?? '') === $program) {
            return $call['line'];
        }
    }
    return 0;
}

function run_step(string $step, callable $run): void
{
    try {
        $run();
        echo "ok $step\n";
    } catch (Throwable $error) {
        $text = sprintf('%s: %s (line %d)', $error::class, $error->getMessage(), line_of($error));
        echo "not ok $step: ", preg_replace('/\s+/', ' ', $text), "\n";
    }
}

/**
 * Runs the steps named on the command line, or all but recovery, in the order of the table:
 * perform(host, port, function) runs one with what that library's steps want.
 */
function run(array $steps, callable $perform): void
{
    error_reporting(E_ALL);
    ini_set('display_errors', 'stderr');
    [, $host, $port] = $_SERVER['argv'];
    $wanted = array_slice($_SERVER['argv'], 3) ?: array_diff(array_keys($steps), ['recovery']);
    foreach ($wanted as $step) {
        run_step($step, fn () => $perform($host, (int) $port, $steps[$step]));
    }
}
