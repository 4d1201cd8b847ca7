# Runs the steps of a Ruby client program and prints their results, as python/feature.py does.
require "timeout"

STEP_LIMIT_S = 30
RECOVERY_LIMIT_S = 90
WAIT_S = 20

# A name for a queue or exchange that no other run uses.
def unique(what)
  "clients.#{File.basename($PROGRAM_NAME)}.#{Process.pid}.#{what}"
end

def equal(got, wanted, what)
  raise "#{what}: got #{got.inspect}, wanted #{wanted.inspect}" unless got == wanted
end

def check(is_true, what)
  raise what unless is_true
end

# What arrives, in its order, from whichever thread, and the means to wait for it.
class Inbox
  def initialize
    @lock = Mutex.new
    @arrived = ConditionVariable.new
    @items = []
  end

  def put(item)
    @lock.synchronize do
      @items << item
      @arrived.broadcast
    end
  end

  def items
    @lock.synchronize { @items.dup }
  end

  # Waits until there are count items; returns all that are there.
  def have(count, what = "#{count} messages")
    deadline = now + WAIT_S
    @lock.synchronize do
      while @items.size < count
        raise "waited #{WAIT_S} s for #{what}" if now > deadline
        @arrived.wait(@lock, 0.5)
      end
      @items.dup
    end
  end

  private

  def now
    Process.clock_gettime(Process::CLOCK_MONOTONIC)
  end
end

# Tells the harness that the broker may die now; returns when it is back.
def wait_for_restart
  puts "ready"
  line = $stdin.gets
  check(line == "restarted\n", "the harness said #{line.inspect}")
end

def run_step(step)
  Timeout.timeout(step == "recovery" ? RECOVERY_LIMIT_S : STEP_LIMIT_S) { yield }
  puts "ok #{step}"
rescue StandardError => error
  program = File.expand_path($PROGRAM_NAME)
  place = (error.backtrace_locations || []).find { |at| at.absolute_path == program }
  puts "not ok #{step}: #{error.class}: #{error.message} (line #{place&.lineno})".tr("\n", " ")
end

# Runs the steps named on the command line, or all but recovery, in the order of the table: what the
# block does with the host, the port and the method's name.
def run_steps(steps)
  host, port, *wanted = ARGV
  $stdout.sync = true
  (wanted.empty? ? steps - ["recovery"] : wanted).each do |step|
    raise "unknown step #{step}" unless steps.include?(step)
    run_step(step) { yield host, port.to_i, step.tr("-", "_") }
  end
end
