"""What stops a run that has gone wrong, with a clear word."""

from dnnlib.cli import UserError
from training.configs import part_fits

_MANY = 100  # Updates skipped in a row that end a run.


class SkippedUpdates:
    """Counts the updates that were skipped because a gradient was not finite."""

    def __init__(self):
        self._in_a_row = {}      # 'TrainG', 'RegD', ... -> how many, up to now
        self._since_report = {}  # The same -> how many since the last report

    def add(self, tag, moments):
        """Look at a scalar of the training step, by its moments [3]; others than overflow_frequency are passed over."""
        name, _, kind = tag.partition('/')
        if kind == 'overflow_frequency':
            skipped = int(moments[1])
            self._in_a_row[name] = self._in_a_row.get(name, 0) + skipped if skipped else 0
            self._since_report[name] = self._since_report.get(name, 0) + skipped

    def in_a_row(self):
        """The longest row of skipped updates that goes on now."""
        return max(self._in_a_row.values(), default=0)

    def report(self):
        """Line about those since the last report; '' = there were none."""
        counts = [f'{name} {count}' for name, count in self._since_report.items() if count]
        self._since_report.clear()
        return f'Updates skipped since the last tick, for gradients that are not finite: {", ".join(counts)}' if counts else ''

    def check(self, kimg, checkpoint):
        """Raise a UserError once there are too many in a row. `checkpoint`: path of the last one, or None."""
        for name, count in self._in_a_row.items():
            if count >= _MANY:
                raise UserError(
                    f'training has diverged at kimg {kimg:.1f}: the gradients of the last {count} updates of {name} were not finite',
                    f'The last checkpoint before that is {checkpoint or "not there"}. '
                    'Begin from an earlier network-snapshot-*.pkl with a lower --lrate or another --gamma.')

    def state(self):
        """For JSON."""
        return {'in_a_row': self._in_a_row, 'since_report': self._since_report}

    def set_state(self, state):
        """Go on as when `state` returned this."""
        self._in_a_row, self._since_report = dict(state['in_a_row']), dict(state['since_report'])


def out_of_memory(minibatch_size, minibatch_gpu, err):
    """The UserError in place of tf.errors.ResourceExhaustedError `err`."""
    smaller = [part for part in range(2, minibatch_gpu) if minibatch_size % part == 0 and part_fits(part, smallest=2)]
    remedy = f'Give --minibatch-gpu={smaller[-1]}: it needs less, and learns the same.' if smaller else 'Give a smaller --fmap-base.'
    return UserError(f'out of memory with --minibatch-gpu={minibatch_gpu}: {err.message.splitlines()[0]}', remedy)
