"""A stop that is asked for is remembered until what is in hand is done and saved."""

import logging
import os
import signal
import subprocess

TIME_IS_UP = (signal.SIGUSR1, signal.SIGUSR2)  # which a cluster can send before a job's time is up
# sent by a person, by a terminal that is closed, by a cluster
SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, *TIME_IS_UP)


class Interrupt:
    """Remembers whether one of SIGNALS has come: ``asked``.

    A signal that was ignored before, as SIGHUP is under nohup, stays ignored. In a with statement
    it begins and ends with the block.
    """

    def __init__(self):
        self.asked, self.time_is_up, self.previous = False, False, {}

    def begin(self) -> "Interrupt":
        """Handle the signals from now on. Gives self."""
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self.previous[number] = signal.signal(number, self._remember)
        return self

    def _remember(self, number, _):
        self.asked = True
        self.time_is_up = self.time_is_up or number in TIME_IS_UP

    def end(self) -> None:
        """Give the signals back to those who handled them before."""
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous = {}

    def requeue(self) -> None:
        """Let SLURM start this job again, if its time is up. What is to be kept is saved before."""
        job = os.environ.get("SLURM_JOB_ID")
        if not (self.time_is_up and job):
            return
        if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
            job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
        command = ["scontrol", "requeue", job]
        try:
            failed = subprocess.run(command, capture_output=True, text=True).stderr.strip()
        except FileNotFoundError:
            failed = "there is no scontrol here"
        if failed:
            logging.getLogger("duo_ext").warning(
                "job %s is not queued again (%s): submit it anew to go on", job, failed
            )

    def __enter__(self):
        return self.begin()

    def __exit__(self, *_):
        self.end()
